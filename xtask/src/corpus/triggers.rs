//! What shows the fixes of the list in running programs.

use super::trigger::Answer::{Closes, Says, Waits};
use super::trigger::{Recipient, Trigger};

/// A PUBLISH before any CONNECT: was waited for in full, 230 MB, and is now the end.
pub(super) static MOSQUITTO_FIRST_PACKET: Trigger = Trigger {
    to: Recipient::Port,
    send: &[b"\x30\x80\x80\x80\x74"],
    vulnerable: Waits,
    fixed: Closes,
};

/// What `$1` is after a rewrite: it was escaped for arguments, into too small a buffer.
pub(super) static NGINX_REWRITE: Trigger = Trigger {
    to: Recipient::Port,
    send: &[b"GET /rewritten+x HTTP/1.0\r\n\r\n"],
    vulnerable: Says("was /rewritten%2."),
    fixed: Says("was /rewritten+x."),
};

/// A destination shorter than the alias; the other error ends it before it does harm.
pub(super) static NGINX_DAV: Trigger = Trigger {
    to: Recipient::Port,
    send: &[b"COPY /directory-with-an-alias/a HTTP/1.0\r\nDestination: /b\r\nOverwrite: X\r\n\r\n"],
    vulnerable: Says("invalid \"Overwrite\""),
    fixed: Says("invalid \"Destination\""),
};

/// A euro sign, byte by byte.
pub(super) static NGINX_CHARSET: Trigger = Trigger {
    to: Recipient::Port,
    send: &[b"GET /drip HTTP/1.0\r\n\r\n"],
    vulnerable: Closes,
    fixed: Says("&#8364;"),
};

/// A login, then another one that is not base64: whose login is it then?
pub(super) static NGINX_MAIL: Trigger = Trigger {
    to: Recipient::Second,
    send: &[
        b"EHLO client\r\n",
        b"AUTH LOGIN\r\n",
        b"a25vd24=\r\n",
        b"!!!!\r\n",
        b"AUTH LOGIN\r\n",
        b"!!!!\r\n",
        b"MAIL FROM:<a@b>\r\n",
        b"RCPT TO:<c@d>\r\n",
    ],
    vulnerable: Says("login=%"),
    fixed: Says("login=known."),
};

/// A stream whose consumers share an entry that is pending.
pub(super) static REDIS_STREAM: Trigger = Trigger {
    to: Recipient::Port,
    send: &[
        b"DEBUG SET-SKIP-CHECKSUM-VALIDATION 1\r\n",
        b"*4\r\n$7\r\nRESTORE\r\n$9\r\nkey-COUNT\r\n$1\r\n0\r\n$178\r\n\
          \x0f\x01\x10\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\
          \x00\x25\x25\x00\x00\x00\x0a\x00\x01\x01\x00\x01\x01\x01\x85\x66\x69\x65\
          \x6c\x64\x06\x00\x01\x02\x01\x00\x01\x00\x01\x85\x76\x61\x6c\x75\x65\x06\
          \x04\x01\xff\x01\x01\x00\x01\x07\x6d\x79\x67\x72\x6f\x75\x70\x01\x00\x01\
          \x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x4a\x79\
          \x89\x8f\x9f\x01\x00\x00\x01\x02\x09\x63\x6f\x6e\x73\x75\x6d\x65\x72\x41\
          \x4a\x79\x89\x8f\x9f\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01\x00\
          \x00\x00\x00\x00\x00\x00\x00\x09\x63\x6f\x6e\x73\x75\x6d\x65\x72\x42\x54\
          \x79\x89\x8f\x9f\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\
          \x00\x00\x00\x00\x00\x00\x09\x00\xf6\xea\x7b\x6c\xb8\xb8\xd8\xb4\
         \r\n",
    ],
    vulnerable: Says("+OK\r\n+OK\r\n"),
    fixed: Says("Bad data format"),
};

/// A change of what all strings share, to what it is.
pub(super) static REDIS_METATABLE: Trigger = Trigger {
    to: Recipient::Port,
    send: &[b"EVAL \"local m = getmetatable('') m.__index = m.__index return 'changed'\" 0\r\n"],
    vulnerable: Says("changed"),
    fixed: Says("readonly table"),
};

/// The server's reply is for another client subnet.
pub(super) static DNSMASQ_SUBNET: Trigger = Trigger {
    to: Recipient::Datagram,
    send: &[
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x05COUNT\x04test\x00\x00\x01\x00\x01",
    ],
    vulnerable: Says("\u{4}test"),
    fixed: Says("subnet option mismatch"),
};

/// A variable that is changed by what it is joined with: the text from before has been freed, and
/// is so long that the new one does not come to lie in its place.
pub(super) static BUSYBOX_AWK: Trigger = Trigger {
    to: Recipient::Input,
    send: &[b"a-value-that-is-longer-than-the-smallest-pieces-of-memory\n"],
    vulnerable: Says("said before"),
    fixed: Says("said after"),
};

/// A time of which only the last byte is there, and says that a number in base 256 follows.
pub(super) static TAR_TIME: Trigger = Trigger {
    to: Recipient::Input,
    send: &[&TAR_RECORD],
    vulnerable: Says("base-256 value is out of time_t range"),
    fixed: Says("where numeric time_t value expected"),
};

const BLOCK: usize = 512;
static TAR_RECORD: [u8; 20 * BLOCK] = fill_tar_record();

/// As much as tar reads at once, of headers of empty files.
const fn fill_tar_record() -> [u8; 20 * BLOCK] {
    const FIELDS: &[(usize, &[u8])] = &[
        (0, b"member"),
        (100, b"0000644"),
        (108, b"0000000"),
        (116, b"0000000"),
        (124, b"00000000000"),
        (136, b"           \x80"),
        (148, b"        "),
        (156, b"0"),
        (257, b"ustar\x0000"),
    ];
    const CHECKSUM: usize = 148;
    let mut record = [0; 20 * BLOCK];
    let mut field = 0;
    while field < FIELDS.len() {
        let (offset, text) = FIELDS[field];
        let mut at = 0;
        while at < text.len() {
            record[offset + at] = text[at];
            at += 1;
        }
        field += 1;
    }
    let mut sum = 0;
    let mut at = 0;
    while at < BLOCK {
        sum += record[at] as usize;
        at += 1;
    }
    let mut digit = 6;
    while digit > 0 {
        digit -= 1;
        record[CHECKSUM + digit] = b'0' + (sum % 8) as u8;
        sum /= 8;
    }
    record[CHECKSUM + 6] = 0;
    at = BLOCK;
    while at < record.len() {
        record[at] = record[at - BLOCK];
        at += 1;
    }
    record
}

/// Headers whose names other headers take out.
pub(super) static TINYPROXY_HEADERS: Trigger = Trigger {
    to: Recipient::Port,
    send: &[
        b"GET http://127.0.0.1:UPSTREAM/ HTTP/1.0\r\nConnection: proxy-connection\r\n\
          Proxy-Connection: X-Private\r\nX-Private: here\r\n\r\n",
    ],
    vulnerable: Says("X-Private: here"),
    fixed: Closes,
};

/// Spaces before the first of several keys.
pub(super) static MEMCACHED_SPACES: Trigger = Trigger {
    to: Recipient::Port,
    send: &[b"get                          a b\r\n"],
    vulnerable: Says("backend failure"),
    fixed: Says("malformed request"),
};

/// A time that is negative.
pub(super) static MEMCACHED_TOUCH: Trigger = Trigger {
    to: Recipient::Port,
    send: &[b"touch absent -1\r\n"],
    vulnerable: Says("NOT_FOUND"),
    fixed: Says("invalid exptime"),
};
