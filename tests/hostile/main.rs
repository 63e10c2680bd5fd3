//! Hostile clients, class by class: each case says what it tries, and is judged by the replies it gets, by what lies outside
//! and inside of the root afterwards, by whether the session (or at least the server) lives on, and each class at its end by
//! whether every thread, descriptor and slot is back. See `scene` for what holds after every case.

#[path = "../common/mod.rs"]
mod common;

mod ends;
mod floods;
mod globs;
mod injection;
mod links;
mod modes;
mod numbers;
mod ports;
mod races;
mod scene;
mod special;
mod tls;
mod traversal;
mod trees;

use std::collections::BTreeSet;

use scene::{Case, play};

macro_rules! classes {
    ($($test:ident: $class:ident,)*) => {
        $(#[test]
        fn $test() {
            play(stringify!($class), $class::cases());
        })*
        /// Every case of every class, by name.
        fn all_cases() -> Vec<String> {
            let mut names = Vec::new();
            $(names.extend($class::cases().into_iter().map(|Case { name, .. }| format!("{}: {name}", stringify!($class))));)*
            names
        }
    };
}

classes! {
    no_spelling_of_a_path_leads_out_of_the_root: traversal,
    no_link_leads_out_and_none_hangs_a_session: links,
    no_race_with_a_local_enemy_leads_out: races,
    what_is_no_file_is_never_opened: special,
    set_user_id_bits_are_never_set_and_hard_links_never_spread: modes,
    nothing_in_a_name_or_argument_forges_a_reply_a_listing_or_a_log: injection,
    no_number_is_too_large: numbers,
    floods_are_answered_or_cut_off: floods,
    a_client_may_leave_at_any_moment: ends,
    nothing_but_tls_passes_for_tls: tls,
    no_pattern_takes_for_ever: globs,
    no_tree_is_too_deep: trees,
    data_connections_are_the_clients_own: ports,
}

#[test]
fn there_are_enough_cases_and_no_two_of_one_name() {
    let all = all_cases();
    let names: BTreeSet<&String> = all.iter().collect();
    assert_eq!(names.len(), all.len(), "two cases share a name");
    eprintln!("{} cases", all.len());
    assert!(all.len() >= 150, "{} cases", all.len());
}
