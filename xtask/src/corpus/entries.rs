//! The fixes, and what is expected of each.

use super::projects::{
    BUSYBOX, DNSMASQ, EXPAT, MEMCACHED, MOSQUITTO, NGINX, Project, REDIS, TAR, TINYPROXY,
};

/// A fix, or several that are applied together.
pub(crate) struct Entry {
    pub(crate) project: &'static Project,
    /// Files in the package's debian/patches.
    pub(crate) patches: &'static [&'static str],
    pub(crate) expected: Expected,
    /// It runs in CI.
    pub(crate) quick: bool,
}

/// What comes of a fix.
pub(crate) enum Expected {
    /// These functions, and no others, are replaced.
    Replaced(&'static [&'static str]),
    /// At least these functions are replaced, and at most so many.
    Few(&'static [&'static str], usize),
    /// It is refused, and the refusal has this in it.
    Refused(&'static str),
    /// Nothing in the program changes.
    Nothing,
}

use Expected::{Few, Nothing, Refused, Replaced};

const fn entry(
    project: &'static Project,
    patches: &'static [&'static str],
    expected: Expected,
) -> Entry {
    Entry {
        project,
        patches,
        expected,
        quick: false,
    }
}

const fn quick(entry: Entry) -> Entry {
    Entry {
        quick: true,
        ..entry
    }
}

/// In the order of the list of the project's documents.
pub(crate) static ENTRIES: &[Entry] = &[
    entry(
        &REDIS,
        &["CVE-2025-49844.patch"],
        Replaced(&["luaY_parser"]),
    ),
    entry(
        &NGINX,
        &["CVE-2026-42945.patch"],
        Replaced(&["ngx_http_script_regex_end_code"]),
    ),
    entry(
        &NGINX,
        &["CVE-2025-53859.patch"],
        Replaced(&[
            "ngx_mail_auth_plain",
            "ngx_mail_auth_login_username",
            "ngx_mail_auth_login_password",
            "ngx_mail_auth_cram_md5",
        ]),
    ),
    quick(entry(
        &MOSQUITTO,
        &["CVE-2023-0809.patch"],
        Replaced(&["packet__read"]),
    )),
    entry(
        &DNSMASQ,
        &["CVE-2026-4892.patch"],
        Replaced(&["create_helper"]),
    ),
    entry(&BUSYBOX, &["CVE-2023-42363.patch"], Replaced(&["evaluate"])),
    entry(
        &TAR,
        &["Fix-boundary-checking-in-base-256-decoder.patch"],
        Replaced(&["from_header"]),
    ),
    entry(
        &DNSMASQ,
        &["CVE-2026-4893.patch"],
        Replaced(&["process_reply.constprop.0"]),
    ),
    quick(entry(
        &TINYPROXY,
        &["0002-CVE-2023-49606.patch"],
        Few(&["remove_connection_headers.isra.0"], 3),
    )),
    entry(
        &NGINX,
        &["CVE-2026-27654.patch"],
        Replaced(&["ngx_http_dav_copy_move_handler.part.0"]),
    ),
    entry(
        &NGINX,
        &["CVE-2026-42934.patch", "CVE-2026-48142.patch"],
        Replaced(&["ngx_http_charset_body_filter"]),
    ),
    entry(
        &REDIS,
        &["0001-Fix-LUA-garbage-collector-CVE-2024-46981-1513.patch"],
        Few(&["scriptingRelease"], 5),
    ),
    entry(
        &MEMCACHED,
        &["0009-CVE-2023-46852.patch"],
        Few(&["proxy_process_command"], 4),
    ),
    entry(
        &REDIS,
        &["CVE-2026-66373.patch"],
        Few(&["rdbLoadObject"], 3),
    ),
    entry(&REDIS, &["0007-CVE-2025-48367.patch"], Few(&[], 8)),
    entry(
        &NGINX,
        &["CVE-2026-40701.patch"],
        Refused("struct ngx_ssl_ocsp_ctx_s"),
    ),
    entry(&DNSMASQ, &["CVE-2026-2291.patch"], Refused("union bigname")),
    entry(
        &REDIS,
        &["CVE-2025-46818.patch"],
        Refused("struct redisServer"),
    ),
    entry(
        &EXPAT,
        &["CVE-2024-45491.patch", "CVE-2024-45492.patch"],
        Nothing,
    ),
    entry(
        &REDIS,
        &["0005-CVE-2025-27151.patch"],
        Replaced(&["redis_check_aof_main"]),
    ),
];
