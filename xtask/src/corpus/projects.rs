//! The projects: where their source comes from, how they are built and run.

use crate::debian::SourcePackage;

use super::running::Program;

/// A project whose fixes are in the corpus.
pub(crate) struct Project {
    pub(crate) name: &'static str,
    pub(super) package: SourcePackage,
    /// Prepares a fresh source tree, once.
    pub(super) configure: Option<&'static str>,
    /// Builds the target; engraft runs it twice.
    pub(super) build: &'static str,
    /// What is patched, relative to the source tree.
    pub(super) target: &'static str,
    /// How it runs.
    pub(super) program: Program,
}

pub(super) static REDIS: Project = Project {
    name: "redis",
    package: SourcePackage {
        name: "redis",
        version: "5:7.0.15-1~deb12u10",
        files: &[
            (
                "redis_7.0.15-1~deb12u10.dsc",
                "6416560d9f6e692a524867d8a437d97c9310c374a70d0bac1fee9259bf5e9463",
            ),
            (
                "redis_7.0.15.orig.tar.gz",
                "4b1dc4ee6d622a09fff9c6777191209750fb5e5a725ef78ea012d6eef4c22982",
            ),
            (
                "redis_7.0.15-1~deb12u10.debian.tar.xz",
                "77d8423c427657bb2f5b635f51184e8064a51c93fcbd7519146da587a8361bbc",
            ),
        ],
    },
    configure: None,
    build: "make -C src MALLOC=libc -j2 redis-server",
    target: "src/redis-server",
    program: Program {
        arguments: &[
            "--port",
            "PORT",
            "--save",
            "",
            "--dir",
            "SCRATCH",
            "--enable-debug-command",
            "yes",
        ],
        request: b"PING\r\n",
        reply: "+PONG",
    },
};

pub(super) static NGINX: Project = Project {
    name: "nginx",
    package: SourcePackage {
        name: "nginx",
        version: "1.22.1-9+deb12u9",
        files: &[
            (
                "nginx_1.22.1-9+deb12u9.dsc",
                "28baa4abda06503ae8ecde6e9f049905de7c172d6ec767636628bfcd87499cf4",
            ),
            (
                "nginx_1.22.1.orig.tar.gz",
                "9ebb333a9e82b952acd3e2b4aeb1d4ff6406f72491bab6cd9fe69f0dea737f31",
            ),
            (
                "nginx_1.22.1-9+deb12u9.debian.tar.xz",
                "3aebca44037e31b4148cec5a10dc673fdac176411aaa65a0094135895d154223",
            ),
        ],
    },
    configure: Some(
        "./configure --with-http_ssl_module --with-mail --with-mail_ssl_module --with-stream \
         --with-stream_ssl_module --with-http_mp4_module --with-http_dav_module \
         --with-http_v2_module --with-cc-opt=-O2",
    ),
    build: "make -j2",
    target: "objs/nginx",
    program: Program {
        arguments: &[
            "-p",
            "SCRATCH",
            "-c",
            "SCRATCH/nginx.conf",
            "-g",
            "daemon off; master_process off;",
        ],
        request: b"GET / HTTP/1.0\r\n\r\n",
        reply: "HTTP/1.1 200",
    },
};

pub(super) static MOSQUITTO: Project = Project {
    name: "mosquitto",
    package: SourcePackage {
        name: "mosquitto",
        version: "2.0.11-1.2+deb12u2",
        files: &[
            (
                "mosquitto_2.0.11-1.2+deb12u2.dsc",
                "77afb2d38230b37b085ff7b363a71669951044460e28731e958c0b94019e9263",
            ),
            (
                "mosquitto_2.0.11.orig.tar.gz",
                "7b36a7198bce85cf31b132f5c6ee36dcf5dadf86fb768501eb1e11ce95d4f78a",
            ),
            (
                "mosquitto_2.0.11-1.2+deb12u2.debian.tar.xz",
                "e7a5c96b064b266ec7708591f110f8cce69430d0725b08a508ec8d515983767d",
            ),
        ],
    },
    configure: None,
    build: "make -C src WITH_TLS=no WITH_CJSON=no -j2 mosquitto",
    target: "src/mosquitto",
    program: Program {
        arguments: &["-p", "PORT"],
        // CONNECT of MQTT 3.1.1, and CONNACK.
        request: b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a",
        reply: "\x20\x02\0\0",
    },
};

pub(super) static DNSMASQ: Project = Project {
    name: "dnsmasq",
    package: SourcePackage {
        name: "dnsmasq",
        version: "2.90-4~deb12u2",
        files: &[
            (
                "dnsmasq_2.90-4~deb12u2.dsc",
                "e962782cd9f298a8c6a92ce6f7434629268f53ddbd9908d40d0bec5f08381c5c",
            ),
            (
                "dnsmasq_2.90.orig.tar.xz",
                "8e50309bd837bfec9649a812e066c09b6988b73d749b7d293c06c57d46a109e4",
            ),
            (
                "dnsmasq_2.90-4~deb12u2.debian.tar.xz",
                "f30e80854745f495b6c1de09502b50c3a5fb4d078b6e651970bf46220de84648",
            ),
        ],
    },
    configure: None,
    build: "make -j2",
    target: "src/dnsmasq",
    program: Program {
        arguments: &[
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--listen-address=127.0.0.1",
            "--bind-interfaces",
            "--user=root",
            "--pid-file=SCRATCH/pid",
            "--log-facility=-",
            "--server=127.0.0.1#UPSTREAM",
            "--add-subnet=24",
            "--dhcp-range=192.0.2.10,192.0.2.20",
            "--dhcp-script=/bin/true",
            "--dhcp-leasefile=SCRATCH/leases",
            "--address=/example.test/192.0.2.1",
            "--port=PORT",
        ],
        // DNS over TCP: the address of example.test.
        request: b"\x00\x1e\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x04test\x00\x00\x01\x00\x01",
        reply: "\0",
    },
};

pub(super) static BUSYBOX: Project = Project {
    name: "busybox",
    package: SourcePackage {
        name: "busybox",
        version: "1:1.35.0-4+deb12u1",
        files: &[
            (
                "busybox_1.35.0-4+deb12u1.dsc",
                "9c01fe128b0eeded371c70e37d474fdb5055f71b5d0a778db44c6b0c62d3a7fa",
            ),
            (
                "busybox_1.35.0.orig.tar.bz2",
                "faeeb244c35a348a334f4a59e44626ee870fb07b6884d68c10ae8bc19f83a694",
            ),
            (
                "busybox_1.35.0-4+deb12u1.debian.tar.xz",
                "1cacbe095ef4880ea7879933c8e3c5075d1527cd6fbcb626a9b41e5daefd1a46",
            ),
        ],
    },
    configure: Some("make defconfig && sed -i 's/^CONFIG_TC=y/# CONFIG_TC is not set/' .config"),
    build: "make -j2 busybox_unstripped",
    target: "busybox_unstripped",
    program: Program::filter(&[
        "awk",
        r#"{ v = $1; w = v (v = "new"); print w == "newnew" ? "said after" : "said before"; fflush() }"#,
    ]),
};

/// All of it in BEGIN, which is one evaluation.
pub(super) static AWK_AT_ITS_BEGINNING: Program = Program::filter(&[
    "awk",
    r#"BEGIN { print "begun"; fflush(); while ((getline line) > 0) print line }"#,
]);

pub(super) static TAR: Project = Project {
    name: "tar",
    package: SourcePackage {
        name: "tar",
        version: "1.34+dfsg-1.2+deb12u1",
        files: &[
            (
                "tar_1.34+dfsg-1.2+deb12u1.dsc",
                "c092b25be17ab3b138aabb756497b038516a3f7d23604ccd4bf76ebbabff7a27",
            ),
            (
                "tar_1.34+dfsg.orig.tar.xz",
                "7d57029540cb928394defb3b377b3531237c947e795b51aa8acac0c5ba0e4844",
            ),
            (
                "tar_1.34+dfsg-1.2+deb12u1.debian.tar.xz",
                "e7cdc112e6810a0827b6081f6a4115eb630679a5f3d7cceffbc236d6b8d46d69",
            ),
        ],
    },
    configure: Some("FORCE_UNSAFE_CONFIGURE=1 ./configure"),
    build: "make -j2",
    target: "src/tar",
    program: Program::filter(&["--list", "--verbose", "--ignore-zeros", "--file=-"]),
};

pub(super) static TINYPROXY: Project = Project {
    name: "tinyproxy",
    package: SourcePackage {
        name: "tinyproxy",
        version: "1.11.1-2.1+deb12u1",
        files: &[
            (
                "tinyproxy_1.11.1-2.1+deb12u1.dsc",
                "8741be861e85204fa49be56fe782c9b5a57c4d5843d1937dc9c75d4c47b902d9",
            ),
            (
                "tinyproxy_1.11.1.orig.tar.xz",
                "d66388448215d0aeb90d0afdd58ed00386fb81abc23ebac9d80e194fceb40f7c",
            ),
            (
                "tinyproxy_1.11.1-2.1+deb12u1.debian.tar.xz",
                "42f01e0d126e9f80e5adfc04482df018b988c5f30447e267387906f887deb059",
            ),
        ],
    },
    configure: Some("./configure CFLAGS='-g -O2'"),
    build: "make -j2",
    target: "src/tinyproxy",
    program: Program {
        arguments: &["-d", "-c", "SCRATCH/tinyproxy.conf"],
        request: b"GET http://tinyproxy.stats/ HTTP/1.0\r\nConnection: close\r\n\r\n",
        reply: "HTTP/1.",
    },
};

pub(super) static MEMCACHED: Project = Project {
    name: "memcached",
    package: crate::memcached::PACKAGE,
    configure: Some("./configure --enable-proxy"),
    build: "make -C vendor && make -j2 memcached",
    target: "memcached",
    program: Program {
        arguments: &[
            "-l",
            "127.0.0.1",
            "-p",
            "PORT",
            "-t",
            "4",
            "-u",
            "root",
            "-o",
            "proxy_config=SCRATCH/proxy.lua",
        ],
        request: b"version\r\n",
        reply: "VERSION",
    },
};

pub(super) static EXPAT: Project = Project {
    name: "expat",
    package: SourcePackage {
        name: "expat",
        version: "2.5.0-1+deb12u2",
        files: &[
            (
                "expat_2.5.0-1+deb12u2.dsc",
                "6fc87dbd01f49999ed368cfb37c08d35e41348dda2281d60642f3aa14cb77e32",
            ),
            (
                "expat_2.5.0.orig.tar.gz",
                "ab00ee05c7067fd10a35c5d2a4922ebba746ddd50ff83b79c828da17bbdf1757",
            ),
            (
                "expat_2.5.0-1+deb12u2.debian.tar.xz",
                "7e29f5db5067e55193540089ed0f3ec9676704cf79dcea81a9bfb9f49435ae53",
            ),
        ],
    },
    configure: Some("cd expat && ./buildconf.sh && ./configure --disable-shared"),
    build: "make -C expat -j2",
    target: "expat/xmlwf/xmlwf",
    program: Program::filter(&["-"]),
};
