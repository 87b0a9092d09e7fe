//! The fixes, and what is expected of each.

use std::path::PathBuf;

use super::base::Base;
use super::projects;
use super::projects::{
    BUSYBOX, DNSMASQ, EXPAT, MEMCACHED, MOSQUITTO, NGINX, Project, REDIS, TAR, TINYPROXY,
};
use super::running::Program;
use super::trigger::Trigger;
use super::triggers;

/// A fix, or several that are applied together.
pub(crate) struct Entry {
    pub(crate) project: &'static Project,
    /// Files in the package's debian/patches.
    pub(crate) patches: &'static [&'static str],
    pub(crate) expected: Expected,
    /// What shows it in the running program.
    pub(super) trigger: Option<&'static Trigger>,
    /// A process that never leaves a function, and the function.
    pub(super) stays_in: Option<(Stayer, &'static str)>,
    /// A hook that makes it possible, if it is refused without one.
    pub(super) hook: Option<Hook>,
    /// It runs in CI.
    pub(crate) quick: bool,
}

/// A process that cannot be patched because of where it is.
#[derive(Clone, Copy)]
pub(super) enum Stayer {
    /// The first child of the program.
    Child,
    /// The project's program, started in another way.
    Other(&'static Program),
}

/// The way out for a fix that is refused.
#[derive(Clone, Copy)]
pub(super) struct Hook {
    /// C file in `hooks`.
    pub(super) source: &'static str,
    /// Patch in `hooks` that takes the place of the package's.
    pub(super) patch: Option<&'static str>,
    /// Directory of the program's headers, relative to its source.
    pub(super) include: &'static str,
}

impl Entry {
    pub(super) fn patch_files(&self, base: &Base) -> Vec<PathBuf> {
        let names = self.patches.iter();
        names.map(|name| base.patch(name)).collect()
    }

    /// Whether its project or one of its patch files has this in its name.
    pub(super) fn is_called(&self, text: &str) -> bool {
        let mut names = self.patches.iter().chain([&self.project.name]);
        names.any(|name| name.contains(text))
    }

    /// Whether a module comes of it without a hook.
    pub(super) fn is_loadable(&self) -> bool {
        !matches!(self.expected, Expected::Refused(_) | Expected::Nothing)
    }
}

/// What comes of a fix.
pub(crate) enum Expected {
    /// These functions, and no others, are replaced.
    Replaced(&'static [&'static str]),
    /// At least these functions are replaced, and at most so many.
    Few(&'static [&'static str], usize),
    /// These functions are replaced, and all of them are said to be so perhaps in vain.
    InVain(&'static [&'static str]),
    /// It is refused, and the refusal has this in it.
    Refused(&'static str),
    /// Nothing in the program changes.
    Nothing,
}

use Expected::{Few, InVain, Nothing, Refused, Replaced};

impl Entry {
    const fn new(
        project: &'static Project,
        patches: &'static [&'static str],
        expected: Expected,
    ) -> Self {
        Self {
            project,
            patches,
            expected,
            trigger: None,
            stays_in: None,
            hook: None,
            quick: false,
        }
    }

    const fn quick(self) -> Self {
        Self {
            quick: true,
            ..self
        }
    }

    const fn shown_by(self, trigger: &'static Trigger) -> Self {
        Self {
            trigger: Some(trigger),
            ..self
        }
    }

    const fn stays_in(self, who: Stayer, function: &'static str) -> Self {
        Self {
            stays_in: Some((who, function)),
            ..self
        }
    }

    const fn with_hook(self, hook: Hook) -> Self {
        Self {
            hook: Some(hook),
            ..self
        }
    }
}

/// In the order of the list of the project's documents.
pub(crate) static ENTRIES: &[Entry] = &[
    Entry::new(
        &REDIS,
        &["CVE-2025-49844.patch"],
        Replaced(&["luaY_parser"]),
    ),
    Entry::new(
        &NGINX,
        &["CVE-2026-42945.patch"],
        Replaced(&["ngx_http_script_regex_end_code"]),
    )
    .shown_by(&triggers::NGINX_REWRITE),
    Entry::new(
        &NGINX,
        &["CVE-2025-53859.patch"],
        Replaced(&[
            "ngx_mail_auth_plain",
            "ngx_mail_auth_login_username",
            "ngx_mail_auth_login_password",
            "ngx_mail_auth_cram_md5",
        ]),
    )
    .shown_by(&triggers::NGINX_MAIL),
    Entry::new(
        &MOSQUITTO,
        &["CVE-2023-0809.patch"],
        Replaced(&["packet__read"]),
    )
    .shown_by(&triggers::MOSQUITTO_FIRST_PACKET)
    .quick(),
    Entry::new(
        &DNSMASQ,
        &["CVE-2026-4892.patch"],
        Replaced(&["create_helper"]),
    )
    .stays_in(Stayer::Child, "create_helper"),
    Entry::new(&BUSYBOX, &["CVE-2023-42363.patch"], Replaced(&["evaluate"]))
        .shown_by(&triggers::BUSYBOX_AWK)
        .stays_in(Stayer::Other(&projects::AWK_AT_ITS_BEGINNING), "evaluate"),
    Entry::new(
        &TAR,
        &["Fix-boundary-checking-in-base-256-decoder.patch"],
        Replaced(&["from_header"]),
    )
    .shown_by(&triggers::TAR_TIME),
    Entry::new(
        &DNSMASQ,
        &["CVE-2026-4893.patch"],
        Replaced(&["process_reply.constprop.0"]),
    )
    .shown_by(&triggers::DNSMASQ_SUBNET),
    Entry::new(
        &TINYPROXY,
        &["0002-CVE-2023-49606.patch"],
        Few(&["remove_connection_headers.isra.0"], 3),
    )
    .shown_by(&triggers::TINYPROXY_HEADERS)
    .quick(),
    Entry::new(
        &NGINX,
        &["CVE-2026-27654.patch"],
        Replaced(&["ngx_http_dav_copy_move_handler.part.0"]),
    )
    .shown_by(&triggers::NGINX_DAV),
    Entry::new(
        &NGINX,
        &["CVE-2026-42934.patch", "CVE-2026-48142.patch"],
        Replaced(&["ngx_http_charset_body_filter"]),
    )
    .shown_by(&triggers::NGINX_CHARSET),
    Entry::new(
        &REDIS,
        &["0001-Fix-LUA-garbage-collector-CVE-2024-46981-1513.patch"],
        Few(&["scriptingRelease"], 5),
    ),
    Entry::new(
        &MEMCACHED,
        &["0009-CVE-2023-46852.patch"],
        Few(&["proxy_process_command"], 4),
    )
    .shown_by(&triggers::MEMCACHED_SPACES),
    Entry::new(
        &REDIS,
        &["CVE-2026-66373.patch"],
        Few(&["rdbLoadObject"], 3),
    )
    .shown_by(&triggers::REDIS_STREAM),
    Entry::new(&REDIS, &["0007-CVE-2025-48367.patch"], Few(&[], 8)),
    Entry::new(
        &NGINX,
        &["CVE-2026-40701.patch"],
        Refused("struct ngx_ssl_ocsp_ctx_s"),
    )
    .with_hook(Hook {
        source: "nginx-ocsp.c",
        patch: Some("nginx-ocsp.patch"),
        include: "src/core",
    }),
    Entry::new(&DNSMASQ, &["CVE-2026-2291.patch"], Refused("union bigname")).with_hook(Hook {
        source: "dnsmasq-bigname.c",
        patch: None,
        include: "src",
    }),
    Entry::new(
        &REDIS,
        &["CVE-2025-46818.patch"],
        Refused("struct redisServer"),
    )
    .with_hook(Hook {
        source: "redis-lua.c",
        patch: Some("redis-lua.patch"),
        include: "src",
    })
    .shown_by(&triggers::REDIS_METATABLE),
    Entry::new(
        &EXPAT,
        &["CVE-2024-45491.patch", "CVE-2024-45492.patch"],
        Nothing,
    ),
    Entry::new(
        &REDIS,
        &["0005-CVE-2025-27151.patch"],
        InVain(&["redis_check_aof_main"]),
    ),
];
