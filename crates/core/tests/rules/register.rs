//! What may be registered, and failing enables (specification 2).

use super::common::{F, FG, Obj, Rig, refusal};
use engraft_core::Callbacks;
use engraft_core::sim::func;

#[test]
fn unfit_patches_are_refused() {
    let mut rig = Rig::new();
    rig.load("A", false, &[F]).unwrap();
    let good = rig.patch("B", false, &[FG, Obj("lib", &[1], false)]);
    let mut cases = Vec::new();
    let mut case = |errno: i32, edit: &dyn Fn(&mut engraft_core::NewPatch)| {
        let mut patch = good.clone();
        edit(&mut patch);
        cases.push((errno, patch));
    };
    case(17, &|p| p.name = "A".to_owned());
    case(22, &|p| p.name = String::new());
    case(22, &|p| p.name = "x".repeat(56));
    case(22, &|p| p.name = "a\nb".to_owned());
    case(22, &|p| p.objects.clear());
    case(22, &|p| p.objects[1].name = Some("y".repeat(56)));
    case(17, &|p| p.objects[1].name = None);
    case(22, &|p| {
        p.objects[0].funcs.clear();
        p.objects[0].callbacks = Callbacks::default();
    });
    case(17, &|p| p.objects[0].funcs.push(func(9, 0, true)));
    // positions 0 and 1 are the same function
    case(17, &|p| {
        let mut again = func(9, 0, true);
        again.old_sympos = 1;
        p.objects[0].funcs.push(again);
    });
    // so are two names of one address
    case(17, &|p| {
        let mut alias = func(9, 0, true);
        alias.old_name = "alias".to_owned();
        p.objects[0].funcs.push(alias);
    });
    case(22, &|p| p.objects[0].funcs[0].old = None);
    case(22, &|p| p.objects[1].loaded = false);
    case(22, &|p| p.objects[0].funcs[0].old_name = String::new());
    case(22, &|p| {
        p.objects[0].funcs[0].replacement = engraft_core::Replacement::Nop
    });
    case(22, &|p| {
        let huge = engraft_core::Code::new(u64::MAX - 4, 8);
        p.objects[0].funcs[0].replacement = engraft_core::Replacement::New(huge);
    });
    case(22, &|p| {
        p.objects[0].funcs[0].old = Some(engraft_core::Code::new(0x10, 0))
    });
    case(22, &|p| {
        p.objects[0].funcs[0].old = Some(engraft_core::Code::new(0x10, 8))
    });
    case(22, &|p| {
        p.states = vec![engraft_core::SystemState::plain(0, 0)]
    });
    case(22, &|p| {
        p.states = vec![engraft_core::SystemState::plain(3, 0); 2]
    });
    for (index, (errno, patch)) in cases.into_iter().enumerate() {
        let error = rig.register_patch(patch).unwrap_err();
        assert_eq!(error.errno(), errno, "case {index}: {error}");
    }
    rig.register_patch(good).unwrap();
    assert_eq!(rig.stack(), ["A", "B"]);
}

#[test]
fn a_library_that_moved_is_not_guessed_about() {
    let mut rig = Rig::new();
    let mut patch = rig.patch("A", false, &[Obj("lib", &[1], false)]);
    rig.register_patch(patch.clone()).unwrap();
    patch.name = "B".to_owned();
    patch.objects[0].funcs[0].old = Some(engraft_core::Code::new(0x77_0000, 0x40));
    let error = rig.register_patch(patch).unwrap_err();
    assert!(error.to_string().contains("'A'"), "{error}");
    assert_eq!(error.errno(), 22);
}

#[test]
fn too_many_patches_are_refused() {
    let mut rig = Rig::new();
    for number in 0..engraft_core::MAX_PATCHES {
        rig.register(&format!("P{number}"), false, &[F]);
    }
    let patch = rig.patch("more", false, &[F]);
    assert_eq!(rig.register_patch(patch).unwrap_err().errno(), 12);
}

#[test]
fn pre_patch_failing_on_the_second_object() {
    let mut rig = Rig::new();
    let third = Obj("libb", &[3], true);
    rig.register("A", false, &[F, Obj("liba", &[1], true), third]);
    rig.veto(1, -5);
    let error = rig.enable("A").unwrap_err();
    assert_eq!(error.errno(), 5);
    assert!(error.to_string().contains("'liba'"));
    rig.expect_log(&[
        "A en",
        "A pi",
        "A pre(vmlinux)",
        "A pre(liba)",
        "pre-patch callback failed for object 'liba'",
        "A failed",
        "A can",
        "A uc",
        "A unpost(vmlinux)",
        "A ud",
    ]);
    assert_eq!(rig.process.redirected(), 0);
    assert_eq!(rig.state.transition, None);
    // a missing pre_patch counts as success; nothing of the failure is left
    rig.process.returns.clear();
    rig.enable("A").unwrap();
    assert_eq!(rig.runs(3), "A");
}

#[test]
fn a_failed_replace_leaves_older_patches_untouched() {
    let mut rig = Rig::new();
    rig.load("A", false, &[FG]).unwrap();
    let before = rig.state.stack[0].clone();
    rig.register("C", true, &[F]);
    rig.veto(0, 7);
    assert_eq!(rig.enable("C").unwrap_err().errno(), 7);
    assert_eq!(rig.state.stack[0], before);
    assert_eq!(rig.runs(2), "A");
    assert_eq!(rig.named("C").objects[0].funcs.len(), 1);
}

#[test]
fn states_are_checked_before_the_name_and_both_before_objects() {
    let mut rig = Rig::new();
    rig.register_with_states("A", false, &[0], &[(1, 2)]);
    rig.enable("A").unwrap();
    let mut patch = rig.patch("A", true, &[]);
    let error = refusal(rig.drive().admit(&patch)).unwrap_err();
    assert_eq!(error.errno(), 22);
    assert!(error.to_string().contains("state 1 is missing"), "{error}");
    assert_eq!(
        rig.levels("(A) is not compatible with the already installed livepatches."),
        [engraft_core::Level::Err]
    );
    patch.replace = false;
    assert_eq!(refusal(rig.drive().admit(&patch)).unwrap_err().errno(), 17);
    patch.name = "B".to_owned();
    refusal(rig.drive().admit(&patch)).unwrap();
    assert_eq!(rig.levels("compatible").len(), 1);
    // It is the registering that misses objects.
    assert_eq!(rig.register_patch(patch).unwrap_err().errno(), 22);
    assert_eq!(rig.stack(), ["A"]);
}

#[test]
fn a_name_that_is_taken_says_what_can_be_done_about_it() {
    let mut rig = Rig::new();
    rig.load("A", false, &[F]).unwrap();
    let say = |rig: &Rig| rig.state.check_name("A").unwrap_err().to_string();
    assert!(say(&rig).contains("unload it first"));
    rig.load("B", true, &[F]).unwrap();
    assert!(say(&rig).contains("it was replaced: unload it, then load it again"));
    rig.state.check_name("C").unwrap();
}
