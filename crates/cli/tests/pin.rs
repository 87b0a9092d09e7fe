//! What `engraft pin` refuses before it touches the host, and the unit. What it does to a host is
//! tested in the library; what it does to a kernel, in the conformance tests.

mod support;

use std::path::Path;
use std::process::Command;

use object::write::Object;
use object::{Architecture, BinaryFormat, Endianness, SectionKind};
use support::{Workshop, engraft, stderr, stdout};

const UNIT: &str = include_str!("../systemd/engraft-pin.service");

#[test]
fn each_action_stands_alone() {
    for (arguments, said) in [
        ("pin", "<FILE"),
        ("pin fix.ko", "--kernel"),
        ("pin --kernel", "<FILE"),
        ("pin fix.ko --kernel --list", "cannot be used with"),
        ("pin fix.ko --kernel --apply", "cannot be used with"),
        ("pin --list --apply", "cannot be used with"),
        ("pin --apply --install-unit", "cannot be used with"),
        ("pin fix.ko --kernel level", "NAME=VALUE"),
        ("pin fix.ko --pid 1", "unexpected argument"),
        ("unpin", "--kernel"),
        ("unpin fix --kernel", "unexpected argument"),
    ] {
        let output = engraft().args(arguments.split(' ')).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments}");
        let text = stderr(&output);
        assert!(text.contains(said), "{arguments}: no {said:?} in: {text}");
    }
}

#[test]
fn what_is_no_livepatch_module_is_refused() {
    let workshop = Workshop::new();
    let text = workshop.write("text.ko", "text");
    let plain = workshop.path("plain.ko");
    let mut object = Object::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little);
    let info = object.add_section(Vec::new(), b".modinfo".to_vec(), SectionKind::ReadOnlyData);
    object.append_section_data(info, b"name=plain\0vermagic=6.1.0 SMP \0", 1);
    std::fs::write(&plain, object.write().unwrap()).unwrap();
    for (file, errno, said) in [
        (text, "ENOEXEC", "text.ko: it is no kernel module"),
        (
            plain,
            "EINVAL",
            "pin 'plain': it is not marked as a livepatch",
        ),
        (workshop.path("absent.ko"), "", "absent.ko"),
    ] {
        let pin = || {
            let mut command = engraft();
            command.arg("pin").arg(&file).arg("--kernel");
            command
        };
        let output = pin().output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let text = stderr(&output);
        assert!(text.contains(said) && text.contains(errno), "{text}");
        let output = pin().arg("--json").output().unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let found = answer.get("errno").and_then(|errno| errno.as_str());
        assert_eq!(found.unwrap_or_default(), errno, "{answer}");
    }
}

#[test]
fn a_kernel_module_is_told_from_one_for_processes() {
    let workshop = Workshop::new();
    let write = |name: &str, info: &[u8]| {
        let mut object = Object::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little);
        let section =
            object.add_section(Vec::new(), b".modinfo".to_vec(), SectionKind::ReadOnlyData);
        object.append_section_data(section, info, 1);
        let path = workshop.path(name);
        std::fs::write(&path, object.write().unwrap()).unwrap();
        path
    };
    let kernels = write("fix.ko", b"name=fix\0livepatch=Y\0vermagic=6.1.0 SMP \0");
    let process = write("fix.lp", b"name=fix\0livepatch=Y\0");
    let run = |words: &[&str], file: &Path| engraft().args(words).arg(file).output().unwrap();
    let output = run(&["inspect"], &kernels);
    assert!(output.status.success(), "{output:?}");
    assert!(stdout(&output).starts_with("module 'fix' for Linux 6.1.0\n"));
    let output = run(&["inspect", "--json"], &kernels);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["release"], "6.1.0");
    assert_eq!(answer["info"][1], serde_json::json!(["livepatch", "Y"]));
    let output = run(&["load", "--pid", "1"], &kernels);
    let text = stderr(&output);
    assert!(
        text.contains("a module for Linux '6.1.0 SMP'; load it with --kernel"),
        "{text}"
    );
    let output = run(&["pin", "--kernel"], &process);
    let text = stderr(&output);
    assert!(
        text.contains("'engraft cc'") && text.contains("is for processes"),
        "{text}"
    );
}

/// Each line of the unit is a comment, a section, or a setting.
#[test]
fn the_unit_is_well_formed() {
    let mut section = "";
    let mut settings = Vec::new();
    for line in UNIT.lines().filter(|line| !line.is_empty()) {
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            section = name;
        } else if !line.starts_with('#') {
            let (name, value) = line.split_once('=').expect("a setting");
            settings.push(format!("{section}.{name}={value}"));
        }
    }
    for wanted in [
        "Unit.DefaultDependencies=no",
        "Unit.ConditionPathExists=/sys/kernel/livepatch",
        "Service.Type=oneshot",
        "Service.RemainAfterExit=yes",
        "Service.ExecStart=@ENGRAFT@ pin --apply",
        "Install.WantedBy=sysinit.target",
    ] {
        assert!(settings.iter().any(|setting| setting == wanted), "{wanted}");
    }
}

/// Where systemd is installed, it is asked too.
#[test]
fn systemd_has_nothing_against_the_unit() {
    let workshop = Workshop::new();
    let text = UNIT.replace("@ENGRAFT@", env!("CARGO_BIN_EXE_engraft"));
    let unit = workshop.write("engraft-pin.service", &text);
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]).arg(unit);
    let Ok(output) = verify.output() else {
        return eprintln!("systemd-analyze is not installed");
    };
    let said = stdout(&output) + &stderr(&output);
    assert!(!said.contains("engraft-pin"), "{said}");
}
