//! System states (specification 10).

use super::common::Rig;
use engraft_core::Progress;

#[test]
fn state_versions_also_bind_patches_that_do_not_replace() {
    for (replace, states, fits) in [
        (false, &[(1, 1)][..], false),
        (false, &[(1, 2)][..], true),
        (false, &[(1, 3)][..], true),
        (false, &[][..], true),
        (true, &[][..], false),
        (true, &[(2, 9)][..], false),
        (true, &[(1, 1), (2, 1)][..], false),
        (true, &[(1, 2), (2, 1)][..], true),
    ] {
        let mut rig = Rig::new();
        rig.register_with_states("old", false, &[0], &[(1, 2)]);
        rig.enable("old").unwrap();
        rig.register_with_states("new", replace, &[0], states);
        let outcome = rig.enable("new");
        assert_eq!(
            outcome.is_ok(),
            fits,
            "replace {replace}, states {states:?}: {outcome:?}"
        );
    }
}

#[test]
fn states_of_disabled_and_replaced_patches_do_not_count() {
    let mut rig = Rig::new();
    rig.register_with_states("old", false, &[0], &[(1, 2)]);
    rig.enable("old").unwrap();
    rig.disable("old").unwrap();
    rig.register_with_states("new", true, &[0], &[]);
    assert_eq!(rig.enable("new"), Ok(Progress::Complete));
    assert_eq!(rig.replaced(), ["old"]);
}
