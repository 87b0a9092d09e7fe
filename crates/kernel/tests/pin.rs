//! Pins on a directory that looks like a host: there and back, what is refused, and what a command
//! leaves that was killed or found the disk full.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use engraft_kernel::{Applied, Error, Kernel, KernelModule, Pin, Pinned, Pins};
use nix::errno::Errno;
use object::write::{Object, SectionId};
use object::{Architecture, BinaryFormat, Endianness, SectionKind};

const RUNNING: &str = "6.1.0-57-amd64";

struct Host(tempfile::TempDir);

impl Host {
    fn new() -> Self {
        let host = Self(tempfile::tempdir().expect("directory"));
        host.write("proc/sys/kernel/osrelease", format!("{RUNNING}\n"));
        host
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("directory")).expect("created");
        fs::write(path, bytes).expect("written");
    }

    fn pins(&self) -> Pins {
        Pins::below(self.0.path())
    }

    fn pin(&self, bytes: &[u8]) -> Result<Pinned, Error> {
        let module = KernelModule::parse(bytes, "file.ko").expect("a module");
        let parameters = [("level".to_owned(), "3".to_owned())];
        self.pins().add(bytes, &module, &parameters)
    }

    /// The files of pins, without the lock.
    fn files(&self) -> Vec<String> {
        let directory = self.path("var/lib/engraft/pins");
        let mut files = Vec::new();
        collect(&directory, "", &mut files);
        files.retain(|file| file != "lock");
        files.sort();
        files
    }
}

fn collect(directory: &Path, prefix: &str, files: &mut Vec<String>) {
    for entry in fs::read_dir(directory).expect("readable").flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            collect(&entry.path(), &format!("{name}/"), files);
        } else {
            files.push(name);
        }
    }
}

fn module_with(info: &str, build_id: &[u8]) -> Vec<u8> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little);
    let mut add = |name: &str, kind, bytes: &[u8]| {
        let section: SectionId = object.add_section(Vec::new(), name.into(), kind);
        object.append_section_data(section, bytes, 1);
    };
    add(".modinfo", SectionKind::ReadOnlyData, info.as_bytes());
    add(".note.gnu.build-id", SectionKind::Note, build_id);
    object.write().expect("an object")
}

fn module(name: &str, release: &str, build_id: &[u8]) -> Vec<u8> {
    let info = format!("name={name}\0livepatch=Y\0vermagic={release} SMP mod_unload \0");
    module_with(&info, build_id)
}

fn file_of(release: &str, pin: &Pin) -> String {
    format!("{release}/{}-{}.ko", pin.module, &pin.sha256[..16])
}

#[track_caller]
fn expect<T>(result: Result<T, Error>, errno: Errno, said: &str) {
    let error = result.err().expect("refused");
    assert_eq!(error.errno(), errno, "{error}");
    let text = format!("{error} {}", error.help().unwrap_or_default());
    assert!(text.contains(said), "no {said:?} in: {text}");
}

#[test]
fn there_and_back() {
    let host = Host::new();
    let pins = host.pins();
    assert!(pins.list().expect("readable").is_empty());
    assert!(pins.open(RUNNING).expect("readable").is_none());
    expect(pins.remove(RUNNING), Errno::ENOENT, "pin --list");
    // Who only looks leaves no trace.
    assert!(!host.path("var").exists());

    let bytes = module("fix", RUNNING, b"1");
    let pinned = host.pin(&bytes).expect("pinned");
    assert_eq!((&*pinned.release, &pinned.former), (RUNNING, &None));
    let pin = &pinned.pin;
    assert_eq!(pin.parameters, [("level".to_owned(), "3".to_owned())]);
    let file = file_of(RUNNING, pin);
    assert_eq!(host.files(), [file.as_str(), "manifest.json"]);
    let stored = fs::read(host.path("var/lib/engraft/pins").join(&file));
    assert_eq!(stored.expect("there"), bytes);
    assert_eq!(pins.list().expect("readable")[RUNNING], *pin);
    let opened = pins.open(RUNNING).expect("readable").expect("pinned");
    assert_eq!(opened.module.name, "fix");

    // Another kernel's pin is another pin, and a file of its own.
    host.pin(&module("fix", "6.12.1", b"2")).expect("pinned");
    assert_eq!(pins.list().expect("readable").len(), 2);
    assert_eq!(pins.remove(RUNNING).expect("pinned"), *pin);
    assert_eq!(pins.remove("6.12.1").expect("pinned").module, "fix");
    assert_eq!(host.files(), ["manifest.json"]);
    assert!(pins.open(RUNNING).expect("readable").is_none());
}

#[test]
fn the_newest_takes_the_place_of_the_former() {
    let host = Host::new();
    let first = host.pin(&module("fix", RUNNING, b"1")).expect("pinned").pin;
    // A newer build of that name, another name, and the very same once more.
    let steps = [("fix", b"2"), ("fix2", b"3"), ("fix2", b"3")];
    let mut former = first;
    for (name, build_id) in steps {
        let bytes = module(name, RUNNING, build_id);
        let pinned = host.pin(&bytes).expect("pinned");
        assert_eq!(pinned.former, Some(former));
        let file = file_of(RUNNING, &pinned.pin);
        assert_eq!(host.files(), [file.as_str(), "manifest.json"]);
        former = pinned.pin;
    }
}

#[test]
fn modules_that_cannot_be_pinned_are_refused() {
    let host = Host::new();
    for (info, said) in [
        ("name=fix\0vermagic=6.1.0 \0", "modules-load.d"),
        ("name=fix\0livepatch=Y\0vermagic=\0", "no kernel release"),
        (
            "name=fix\0livepatch=Y\0vermagic=../6.1 \0",
            "no kernel release",
        ),
        (
            "name=fix\0livepatch=Y\0vermagic=lock \0",
            "no kernel release",
        ),
        (
            "name=../fix\0livepatch=Y\0vermagic=6.1.0 \0",
            "no module's name",
        ),
    ] {
        expect(host.pin(&module_with(info, b"")), Errno::EINVAL, said);
    }
    assert!(!host.path("var").exists());
}

#[test]
fn what_is_not_what_was_pinned_is_refused() {
    let host = Host::new();
    let bytes = module("fix", RUNNING, b"1");
    let pin = host.pin(&bytes).expect("pinned").pin;
    let file = format!("var/lib/engraft/pins/{}", file_of(RUNNING, &pin));
    for changed in [&bytes[..bytes.len() - 1], &module("fix", RUNNING, b"2")] {
        host.write(&file, changed);
        expect(
            host.pins().open(RUNNING),
            Errno::EBADMSG,
            "pin the module again",
        );
    }
    fs::remove_file(host.path(&file)).expect("removed");
    expect(host.pins().open(RUNNING), Errno::ENOENT, "has vanished");
    host.pin(&bytes).expect("pinned again");
    assert!(host.pins().open(RUNNING).expect("whole").is_some());
}

#[test]
fn a_manifest_that_is_not_understood_is_left_alone() {
    let host = Host::new();
    let bytes = module("fix", RUNNING, b"1");
    let pin = host.pin(&bytes).expect("pinned").pin;
    let files = host.files();
    let pin_of = |release: &str, module: &str, digest: &str| {
        format!(
            r#"{{"version":1,"pins":{{"{release}":{{"module":"{module}","sha256":"{digest}","parameters":[]}}}}}}"#
        )
    };
    let newer = r#"{"version":2,"pins":[],"more":true}"#.to_owned();
    for (text, errno, said) in [
        (newer, Errno::EOPNOTSUPP, "version 2"),
        (String::new(), Errno::EBADMSG, "move this file away"),
        (r#"{"version":1}"#.to_owned(), Errno::EBADMSG, "pins"),
        (
            r#"{"version":1,"pins":{},"more":1}"#.to_owned(),
            Errno::EBADMSG,
            "more",
        ),
        (pin_of("../x", "fix", &pin.sha256), Errno::EBADMSG, "'../x'"),
        (
            pin_of("6.1", "../fix", &pin.sha256),
            Errno::EBADMSG,
            "'6.1'",
        ),
        (pin_of("6.1", "fix", "../../../x"), Errno::EBADMSG, "'6.1'"),
    ] {
        host.write("var/lib/engraft/pins/manifest.json", &text);
        expect(host.pins().list(), errno, said);
        expect(host.pins().open(RUNNING), errno, said);
        expect(host.pins().remove(RUNNING), errno, said);
        expect(host.pin(&module("new", RUNNING, b"2")), errno, said);
        assert_eq!(host.files(), files);
    }
}

/// The states in which a pin may be interrupted, made by hand.
#[test]
fn killed_at_any_step() {
    let bytes = module("fix", RUNNING, b"1");
    let new = module("fix", RUNNING, b"2");
    let directory = "var/lib/engraft/pins";
    let whole = {
        let host = Host::new();
        let pin = host.pin(&new).expect("pinned").pin;
        let manifest = fs::read(host.path(&format!("{directory}/manifest.json")));
        (file_of(RUNNING, &pin), manifest.expect("there"))
    };
    let (new_file, new_manifest) = &whole;
    let new_name = new_file.rsplit('/').next().expect("name");
    let steps: [(String, &[u8]); 4] = [
        (format!("{RUNNING}/.{new_name}.new"), &new[..new.len() / 2]),
        (new_file.clone(), &new),
        (".manifest.json.new".to_owned(), &new_manifest[..20]),
        ("manifest.json".to_owned(), new_manifest),
    ];
    for killed_after in 1..=steps.len() {
        let host = Host::new();
        let old = host.pin(&bytes).expect("pinned").pin;
        for (path, bytes) in &steps[..killed_after] {
            host.write(&format!("{directory}/{path}"), bytes);
        }
        host.write(&format!("{directory}/6.2.0/.x-0.ko.new"), "");
        let found = host.pins().list().expect("readable").remove(RUNNING);
        assert_eq!(found == Some(old), killed_after < steps.len());
        assert!(host.pins().open(RUNNING).expect("whole").is_some());
        // The next command, whatever it is, leaves nothing behind.
        let other = host.pin(&module("other", "6.12.1", b"")).expect("pinned");
        let kept = host.pins().list().expect("readable").remove(RUNNING);
        let kept = file_of(RUNNING, &kept.expect("pinned"));
        let other = file_of("6.12.1", &other.pin);
        assert_eq!(host.files(), [kept, other, "manifest.json".to_owned()]);
        assert!(!host.path(&format!("{directory}/6.2.0")).exists());
    }
}

#[test]
fn what_fails_halfway_leaves_the_former_pin() {
    let host = Host::new();
    host.pin(&module("fix", RUNNING, b"1")).expect("pinned");
    let files = host.files();
    // Where the new manifest is to be written, something is in the way.
    let obstacle = host.path("var/lib/engraft/pins/.manifest.json.new");
    fs::create_dir(&obstacle).expect("created");
    expect(
        host.pin(&module("fix", RUNNING, b"2")),
        Errno::EISDIR,
        "manifest.json",
    );
    assert_eq!(host.files(), files);
    assert!(host.pins().open(RUNNING).expect("whole").is_some());
    fs::remove_dir(obstacle).expect("removed");
    host.pin(&module("fix", RUNNING, b"2")).expect("pinned");
}

/// Set in the process that must not write large files.
const LIMITED: &str = "ENGRAFT_TEST_ON_A_FULL_DISK";

#[test]
fn a_full_disk_leaves_nothing_behind() {
    if let Some(root) = std::env::var_os(LIMITED) {
        let bytes = module("fix", RUNNING, &[0; 100_000]);
        let module = KernelModule::parse(&bytes, "fix.ko").expect("a module");
        let refused = Pins::below(root).add(&bytes, &module, &[]);
        return expect(refused, Errno::EFBIG, "pin 'fix'");
    }
    let host = Host::new();
    host.pin(&module("fix", RUNNING, b"1")).expect("pinned");
    let files = host.files();
    // A file beyond the limit is refused like one that the disk has no room for.
    let script = "ulimit -f 8; trap '' XFSZ; exec \"$0\" --exact a_full_disk_leaves_nothing_behind";
    let program = std::env::current_exe().expect("this program");
    let mut limited = Command::new("sh");
    limited.args(["-c", script]).arg(program);
    let output = limited.env(LIMITED, host.0.path()).output().expect("run");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("1 passed"), "{output:?}");
    assert_eq!(host.files(), files);
    assert!(host.pins().open(RUNNING).expect("whole").is_some());
}

#[test]
fn pins_at_the_same_time_wait_for_each_other() {
    let host = Host::new();
    let releases: Vec<String> = (0..8).map(|number| format!("6.{number}.0")).collect();
    std::thread::scope(|scope| {
        for release in &releases {
            scope.spawn(|| host.pin(&module("fix", release, b"1")).expect("pinned"));
        }
    });
    let found: Vec<String> = host.pins().list().expect("readable").into_keys().collect();
    assert_eq!(found, releases);
    let lock = File::open(host.path("var/lib/engraft/pins/lock")).expect("there");
    lock.lock().expect("locked");
    let files = host.files();
    let bytes = module("new", RUNNING, b"1");
    expect(host.pin(&bytes), Errno::EWOULDBLOCK, "another engraft");
    assert_eq!(host.files(), files);
    lock.unlock().expect("unlocked");
    host.pin(&bytes).expect("pinned");
}

#[test]
fn a_pin_is_applied_once_and_only_if_it_can_be() {
    let host = Host::new();
    host.pin(&module("fix", RUNNING, b"1")).expect("pinned");
    fs::create_dir_all(host.path("sys/kernel/livepatch")).expect("created");
    let kernel = Kernel::below(host.0.path()).expect("livepatch");
    let running = host.pins().running_release().expect("known");
    let pinned = host.pins().open(&running).expect("whole").expect("pinned");
    // No kernel takes this module; what matters is that it was asked.
    let error = kernel.apply(&pinned).expect_err("no real module");
    assert!(error.to_string().starts_with("load 'fix'"), "{error}");
    host.write("sys/module/fix/refcnt", "0");
    expect(kernel.apply(&pinned), Errno::EEXIST, "unload the module");
    host.write("sys/kernel/livepatch/fix/enabled", "1");
    assert_eq!(kernel.apply(&pinned).expect("loaded"), Applied::Already);
    host.write("sys/module/fix/notes/.note.gnu.build-id", "1");
    assert_eq!(kernel.apply(&pinned).expect("loaded"), Applied::Already);
    host.write("sys/kernel/livepatch/fix/enabled", "0");
    expect(kernel.apply(&pinned), Errno::EBUSY, "being disabled");
    host.write("sys/module/fix/notes/.note.gnu.build-id", "2");
    expect(kernel.apply(&pinned), Errno::EEXIST, "another build");
}

#[test]
fn the_unit_is_written_and_enabled() {
    let host = Host::new();
    let pins = host.pins();
    expect(pins.install_unit("# ours\n"), Errno::ENOENT, "pin --apply");
    fs::create_dir_all(host.path("etc/systemd/system")).expect("created");
    assert!(!pins.are_applied_at_boot());
    for text in ["# ours\nold\n", "# ours\nnew\n"] {
        let path = pins.install_unit(text).expect("installed");
        assert_eq!(path, host.path("etc/systemd/system/engraft-pin.service"));
        assert_eq!(fs::read_to_string(path).expect("there"), text);
        assert!(pins.are_applied_at_boot());
        let link = "etc/systemd/system/sysinit.target.wants/engraft-pin.service";
        assert_eq!(fs::read_to_string(host.path(link)).expect("there"), text);
    }
    let other = "etc/systemd/system/engraft-pin.service";
    host.write(other, "[Unit]\n");
    expect(
        pins.install_unit("# ours\n"),
        Errno::EEXIST,
        "not written by",
    );
    assert_eq!(
        fs::read_to_string(host.path(other)).expect("there"),
        "[Unit]\n"
    );
}
