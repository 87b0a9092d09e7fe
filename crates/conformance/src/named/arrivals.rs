//! Objects that come and go while patches name them: what the self-tests leave out.

use super::{Named, steps};

pub(super) fn all() -> Vec<Named> {
    let mut list = settled();
    list.extend(during_enable());
    list.extend(during_disable());
    list.extend(during_replace());
    list.extend(refused());
    list
}

/// No transition runs.
fn settled() -> Vec<Named> {
    let group = "objects";
    vec![
        steps(
            group,
            "errors of coming and going",
            "rmmod conf_c
             call c1
             park 0 c1
             insmod conf_c
             insmod conf_c
             park 0 c1
             rmmod conf_c
             free 0
             hammer 1 c2
             rmmod conf_c
             free 1
             rmmod conf_c
             call c1
             rmmod conf_b
             call b1
             insmod conf_b
             call b1",
        ),
        steps(
            group,
            "there and back, twice",
            "load conf_p0 functions=48 objects=9 callbacks=15
             insmod conf_c
             call c1
             rmmod conf_c
             insmod conf_c
             call c2
             disable conf_p0
             call c2
             unload conf_p0
             rmmod conf_c",
        ),
        steps(
            group,
            "one that was there is patched, goes and comes back",
            "load conf_p0 functions=4 objects=5 callbacks=15
             call b1
             rmmod conf_b
             insmod conf_b
             call b1
             call b2
             disable conf_p0
             call b1
             unload conf_p0",
        ),
        steps(
            group,
            "goes while a patch is off",
            "insmod conf_c
             load conf_p0 functions=16 objects=9 callbacks=15
             disable conf_p0
             rmmod conf_c
             unload conf_p0
             insmod conf_c
             call c1",
        ),
        steps(
            group,
            "two patches of the same function",
            "load conf_p0 functions=48 callbacks=15 version=3
             load conf_p1 functions=16 callbacks=15 version=4
             insmod conf_c
             call c1
             call c2
             disable conf_p1
             call c1
             rmmod conf_c
             unload conf_p1
             load conf_p1 functions=16 callbacks=15 version=5
             insmod conf_c
             call c1
             disable conf_p0
             call c1
             call c2
             rmmod conf_c
             disable conf_p1
             unload conf_p1
             unload conf_p0",
        ),
        steps(
            group,
            "a patch comes over one that was applied to a coming object",
            "load conf_p0 functions=16 callbacks=15 version=3
             insmod conf_c
             load conf_p1 functions=48 callbacks=15 version=4
             call c1
             rmmod conf_c
             disable conf_p1
             insmod conf_c
             call c1
             disable conf_p0
             unload conf_p0
             unload conf_p1",
        ),
        steps(
            group,
            "a thread stays in the new function of one that has come",
            "load conf_p0 functions=16 callbacks=15
             insmod conf_c
             park 0 c1
             disable conf_p0
             rmmod conf_c
             call c1
             enable conf_p0
             disable conf_p0
             free 0
             rmmod conf_c
             unload conf_p0",
        ),
        steps(
            group,
            "comes and goes while only patches of others are there",
            "load conf_p0 functions=20
             disable conf_p0
             unload conf_p0
             load conf_p1 functions=4
             insmod conf_c
             load conf_p2 functions=16 objects=8 callbacks=15
             call c1
             disable conf_p2
             unload conf_p2
             rmmod conf_c
             load conf_p2 functions=16 objects=8 callbacks=15
             insmod conf_c
             call c1
             rmmod conf_c
             disable conf_p2
             disable conf_p1",
        ),
        steps(
            group,
            "a replace is over when it comes",
            "load conf_p0 functions=48 objects=9 callbacks=15 version=3
             load conf_p1 functions=16 objects=1 callbacks=15 version=4 replace=1
             insmod conf_c
             call c1
             call c2
             rmmod conf_c
             unload conf_p0
             disable conf_p1
             unload conf_p1",
        ),
    ]
}

fn during_enable() -> Vec<Named> {
    let group = "objects (enable)";
    vec![
        steps(
            group,
            "comes",
            "park 0 a1
             load conf_p0 functions=17 objects=9 callbacks=15
             insmod conf_c
             call c1
             park 1 c1
             free 0
             call c1
             free 1
             rmmod conf_c
             disable conf_p0
             unload conf_p0",
        ),
        steps(
            group,
            "comes, and goes",
            "park 0 a1
             load conf_p0 functions=17 objects=9 callbacks=15
             insmod conf_c
             rmmod conf_c
             free 0
             insmod conf_c
             call c1
             rmmod conf_c
             disable conf_p0
             unload conf_p0",
        ),
        steps(
            group,
            "goes, and comes",
            "insmod conf_c
             park 0 a1
             load conf_p0 functions=17 objects=9 callbacks=15
             rmmod conf_c
             insmod conf_c
             call c1
             free 0
             call c1
             disable conf_p0
             unload conf_p0",
        ),
        steps(
            group,
            "comes, then it is reversed",
            "park 0 a1
             load conf_p0 functions=17 objects=9 callbacks=15
             insmod conf_c
             call c1
             disable conf_p0
             call c1
             unload conf_p0
             free 0",
        ),
        steps(
            group,
            "comes while it is being reversed",
            "load conf_p0 functions=1
             park 0 a1
             load conf_p1 functions=17 objects=9 callbacks=15 version=3
             park 1 a1
             disable conf_p1
             insmod conf_c
             call c1
             free 1
             call c1
             rmmod conf_c
             free 0",
        ),
        steps(
            group,
            "comes, then it is forced",
            "park 0 a1
             load conf_p0 functions=17 objects=9 callbacks=15
             insmod conf_c
             force conf_p0
             call c1
             rmmod conf_c
             free 0
             insmod conf_c
             disable conf_p0
             unload conf_p0",
        ),
        steps(
            group,
            "over another patch of the same function",
            "load conf_p0 functions=48 callbacks=15 version=3
             park 0 a1
             load conf_p1 functions=17 callbacks=15 version=4
             insmod conf_c
             call c1
             call c2
             free 0
             call c1
             disable conf_p1
             call c1
             rmmod conf_c
             unload conf_p1
             disable conf_p0
             unload conf_p0",
        ),
    ]
}

fn during_disable() -> Vec<Named> {
    let group = "objects (disable)";
    vec![
        steps(
            group,
            "comes",
            "load conf_p0 functions=17 objects=9 callbacks=15
             park 0 a1
             disable conf_p0
             insmod conf_c
             call c1
             free 0
             call c1
             unload conf_p0
             rmmod conf_c",
        ),
        steps(
            group,
            "comes, and goes",
            "load conf_p0 functions=17 objects=9 callbacks=15
             park 0 a1
             disable conf_p0
             insmod conf_c
             rmmod conf_c
             free 0
             unload conf_p0",
        ),
        steps(
            group,
            "comes, goes, and comes",
            "load conf_p0 functions=17 objects=9 callbacks=15
             park 0 a1
             disable conf_p0
             insmod conf_c
             rmmod conf_c
             insmod conf_c
             call c1
             free 0
             call c1
             unload conf_p0
             rmmod conf_c",
        ),
        steps(
            group,
            "goes",
            "insmod conf_c
             load conf_p0 functions=17 objects=9 callbacks=15
             park 0 a1
             disable conf_p0
             rmmod conf_c
             free 0
             unload conf_p0",
        ),
        steps(
            group,
            "comes, then it is reversed",
            "load conf_p0 functions=17 objects=9 callbacks=15
             park 0 a1
             disable conf_p0
             insmod conf_c
             enable conf_p0
             call c1
             rmmod conf_c
             free 0
             disable conf_p0
             unload conf_p0",
        ),
        steps(
            group,
            "goes, comes, then it is reversed",
            "insmod conf_c
             load conf_p0 functions=17 objects=9 callbacks=15
             park 0 a1
             disable conf_p0
             rmmod conf_c
             insmod conf_c
             call c1
             enable conf_p0
             call c1
             free 0
             rmmod conf_c
             disable conf_p0
             unload conf_p0",
        ),
    ]
}

fn during_replace() -> Vec<Named> {
    let group = "objects (replace)";
    vec![
        steps(
            group,
            "comes, both name it",
            "load conf_p0 functions=48 objects=9 callbacks=15 version=3
             park 0 a1
             load conf_p1 functions=17 objects=9 callbacks=15 version=4 replace=1
             insmod conf_c
             call c1
             call c2
             free 0
             call c1
             call c2
             rmmod conf_c
             unload conf_p0
             disable conf_p1
             unload conf_p1",
        ),
        steps(
            group,
            "comes, the old one names it",
            "load conf_p0 functions=16 callbacks=15 version=3
             park 0 a1
             load conf_p1 functions=1 callbacks=15 version=4 replace=1
             insmod conf_c
             call c1
             free 0
             call c1
             rmmod conf_c
             insmod conf_c
             unload conf_p0
             disable conf_p1
             unload conf_p1",
        ),
        steps(
            group,
            "comes, and goes, the old one names it",
            "load conf_p0 functions=16 callbacks=15 version=3
             park 0 a1
             load conf_p1 functions=1 callbacks=15 version=4 replace=1
             insmod conf_c
             rmmod conf_c
             free 0
             unload conf_p0
             disable conf_p1
             unload conf_p1",
        ),
        steps(
            group,
            "comes, the old one has callbacks for it only",
            "load conf_p0 functions=1 objects=8 callbacks=15 version=3
             park 0 a1
             load conf_p1 functions=1 callbacks=15 version=4 replace=1
             insmod conf_c
             rmmod conf_c
             insmod conf_c
             free 0
             rmmod conf_c
             disable conf_p1",
        ),
        steps(
            group,
            "goes, both name it",
            "insmod conf_c
             load conf_p0 functions=48 objects=9 callbacks=15 version=3
             park 0 a1
             load conf_p1 functions=17 objects=9 callbacks=15 version=4 replace=1
             rmmod conf_c
             free 0
             unload conf_p0
             disable conf_p1
             unload conf_p1",
        ),
        steps(
            group,
            "comes, then it is reversed",
            "load conf_p0 functions=48 objects=9 callbacks=15 version=3
             park 0 a1
             load conf_p1 functions=17 objects=9 callbacks=15 version=4 replace=1
             insmod conf_c
             call c1
             disable conf_p1
             call c1
             call c2
             rmmod conf_c
             free 0
             unload conf_p1
             disable conf_p0",
        ),
        steps(
            group,
            "comes, the old one names it, then it is reversed",
            "load conf_p0 functions=16 callbacks=15 version=3
             park 0 a1
             load conf_p1 functions=1 callbacks=15 version=4 replace=1
             insmod conf_c
             call c1
             disable conf_p1
             call c1
             free 0
             rmmod conf_c
             disable conf_p0",
        ),
        steps(
            group,
            "a thread is in a function of one that has come, which is to have a nop",
            "load conf_p0 functions=48 callbacks=15 version=3
             insmod conf_c
             park 0 c2
             load conf_p1 functions=16 callbacks=15 version=4 replace=1
             rmmod conf_c
             call c1
             call c2
             free 0
             call c2
             rmmod conf_c
             insmod conf_c
             call c1
             disable conf_p1",
        ),
    ]
}

fn refused() -> Vec<Named> {
    let group = "objects (refusal)";
    vec![
        steps(
            group,
            "by the second of two patches",
            "load conf_p0 functions=16 objects=9 callbacks=15 version=3
             load conf_p1 functions=48 objects=9 callbacks=15 pre_patch_ret=-12 fails_for=3
             insmod conf_c
             call c1
             insmod conf_c
             disable conf_p1
             unload conf_p1
             insmod conf_c
             call c1
             rmmod conf_c
             disable conf_p0
             unload conf_p0",
        ),
        steps(
            group,
            "by the first of two patches",
            "load conf_p0 functions=16 callbacks=15 pre_patch_ret=-19 fails_for=3
             load conf_p1 functions=16 callbacks=15
             insmod conf_c
             disable conf_p0
             insmod conf_c
             call c1
             disable conf_p1",
        ),
        steps(
            group,
            "by a patch that is being enabled",
            "load conf_p0 functions=16 callbacks=15 version=3
             park 0 a1
             load conf_p1 functions=17 callbacks=15 pre_patch_ret=-16 fails_for=3
             insmod conf_c
             free 0
             insmod conf_c
             disable conf_p1
             insmod conf_c
             disable conf_p0",
        ),
        steps(
            group,
            "by a patch that is being disabled",
            "load conf_p0 functions=17 callbacks=15 pre_patch_ret=-16 fails_for=3
             park 0 a1
             disable conf_p0
             insmod conf_c
             free 0
             insmod conf_c
             call c1",
        ),
        steps(
            group,
            "by a patch that is being replaced",
            "load conf_p0 functions=16 callbacks=15 pre_patch_ret=-16 fails_for=3
             park 0 a1
             load conf_p1 functions=1 callbacks=15 replace=1
             insmod conf_c
             free 0
             insmod conf_c
             call c1
             disable conf_p1",
        ),
    ]
}
