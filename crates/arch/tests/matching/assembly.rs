//! Every access that linkers may relax, with every register.

use crate::toolchain::{Build, Kind, Source};
use crate::{LINKERS, check_builds};

const REGISTERS: [(&str, &str); 16] = [
    ("rax", "eax"),
    ("rcx", "ecx"),
    ("rdx", "edx"),
    ("rbx", "ebx"),
    ("rsp", "esp"),
    ("rbp", "ebp"),
    ("rsi", "esi"),
    ("rdi", "edi"),
    ("r8", "r8d"),
    ("r9", "r9d"),
    ("r10", "r10d"),
    ("r11", "r11d"),
    ("r12", "r12d"),
    ("r13", "r13d"),
    ("r14", "r14d"),
    ("r15", "r15d"),
];

const DATA: &str = "
    .data
    .globl own_data
own_data: .quad 1
    .type own_data,@object
    .size own_data,8
    .section .tdata,\"awT\",@progbits
    .quad 5
    .globl own_tls
own_tls: .quad 2
    .type own_tls,@object
    .size own_tls,8
    .section .note.GNU-stack,\"\",@progbits
";

const LIBRARY: &str = "long library_data = 3; __thread long library_tls = 4; \
                       void library_call(void) {}";

struct Text {
    functions: usize,
    text: String,
}

impl Text {
    fn function(&mut self, lines: &[String]) {
        let name = match self.functions {
            0 => "main".to_owned(),
            number => format!("function_{number}"),
        };
        self.functions += 1;
        let body = lines.join("\n    ");
        self.text += &format!(
            "\n    .section .text.{name},\"ax\",@progbits\n    .globl {name}\n    \
             .type {name},@function\n{name}:\n    {body}\n    .size {name},.-{name}\n"
        );
    }
}

fn accesses() -> String {
    let mut text = Text {
        functions: 0,
        text: String::new(),
    };
    text.function(&["xorl %eax, %eax".into(), "ret".into()]);
    for data in ["own_data", "library_data"] {
        for (long, short) in REGISTERS {
            let mut lines = Vec::new();
            let moves = ["mov", "add", "or", "adc", "sbb", "and", "sub", "xor", "cmp"];
            for operation in moves {
                for register in [long, short] {
                    lines.push(format!("{operation} {data}@GOTPCREL(%rip), %{register}"));
                }
            }
            for register in [long, short] {
                lines.push(format!("test %{register}, {data}@GOTPCREL(%rip)"));
                // These stay.
                lines.push(format!("xchg %{register}, {data}@GOTPCREL(%rip)"));
                lines.push(format!("cmp %{register}, {data}@GOTPCREL(%rip)"));
                lines.push(format!("imul $77, {data}@GOTPCREL(%rip), %{register}"));
            }
            lines.push(format!("cmpq $300, {data}@GOTPCREL(%rip)"));
            lines.push(format!("pushq {data}@GOTPCREL(%rip)"));
            lines.push("ret".into());
            text.function(&lines);
        }
    }
    for tls in ["own_tls", "library_tls"] {
        for (long, _) in REGISTERS {
            text.function(&[
                format!("movq {tls}@GOTTPOFF(%rip), %{long}"),
                format!("addq {tls}@GOTTPOFF(%rip), %{long}"),
                format!("leaq {tls}@TLSDESC(%rip), %{long}"),
                format!("call *{tls}@TLSCALL(%rax)"),
                "ret".into(),
            ]);
        }
        for call in [
            ".word 0x6666\n    rex64\n    call __tls_get_addr@PLT",
            ".byte 0x66\n    rex64\n    call *__tls_get_addr@GOTPCREL(%rip)",
        ] {
            text.function(&[
                ".byte 0x66".into(),
                format!("leaq {tls}@TLSGD(%rip), %rdi"),
                call.into(),
                "ret".into(),
            ]);
        }
    }
    for call in [
        "call __tls_get_addr@PLT",
        "call *__tls_get_addr@GOTPCREL(%rip)",
    ] {
        text.function(&[
            "leaq own_tls@TLSLD(%rip), %rdi".into(),
            call.into(),
            "leaq own_tls@DTPOFF(%rax), %rcx".into(),
            "ret".into(),
        ]);
    }
    for function in ["main", "library_call"] {
        text.function(&[
            format!("call *{function}@GOTPCREL(%rip)"),
            format!("jmp *{function}@GOTPCREL(%rip)"),
        ]);
    }
    text.text + DATA
}

#[test]
fn relaxed_accesses_are_recognized_with_every_register() {
    let text = accesses();
    let source = Source {
        text: &text,
        language: "s",
        library: LIBRARY,
    };
    let kinds = [Kind::Pie, Kind::Fixed, Kind::Static, Kind::Shared];
    let builds = kinds.map(|kind| Build::new("gcc", kind, &[], &LINKERS));
    let expected = [
        ("Slot", "Slot"),
        ("Slot", "Target"),
        ("TlsDescriptor", "TlsDescriptor"),
        ("TlsDescriptor", "TlsOffset"),
        ("TlsDescriptor", "TlsSlot"),
        ("TlsIndex", "TlsIndex"),
        ("TlsIndex", "TlsOffset"),
        ("TlsIndex", "TlsSlot"),
        ("TlsModule", "nothing"),
        ("TlsModule", "TlsModule"),
        ("TlsSlot", "TlsOffset"),
        ("TlsSlot", "TlsSlot"),
    ];
    check_builds(builds.into(), source, &expected);
}
