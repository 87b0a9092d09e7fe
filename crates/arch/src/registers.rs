//! Sets of registers, a vector register being one whatever its width.

use std::fmt;
use std::ops::{BitAnd, BitOr, BitOrAssign, Sub};

use iced_x86::{
    Code, CpuidFeature, Instruction, InstructionInfoFactory, Mnemonic, OpAccess,
    Register as IcedRegister,
};

/// A register that a program can keep a value in; flags and x87 registers are not among
/// them (the psABI lets no value pass a call in either, and gcc treats both so even with
/// -fipa-ra).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Register(u8);

impl Register {
    /// rax.
    pub const RAX: Self = Self(0);
    /// rcx.
    pub const RCX: Self = Self(1);
    /// rdx.
    pub const RDX: Self = Self(2);
    /// rsp.
    pub const RSP: Self = Self(4);
    /// rbp.
    pub const RBP: Self = Self(5);
    /// rsi.
    pub const RSI: Self = Self(6);
    /// rdi.
    pub const RDI: Self = Self(7);
    /// r10, the static chain.
    pub const R10: Self = Self(10);

    /// General register by its number in instruction encodings (rax 0, rcx 1, ... r15 15).
    #[must_use]
    pub fn general(number: u8) -> Option<Self> {
        (number < 16).then_some(Self(number))
    }

    /// Vector register xmm`number`, below 32.
    #[must_use]
    pub fn vector(number: u8) -> Option<Self> {
        (number < 32).then_some(Self(16 + number))
    }

    /// The encoding number, if this is a general register.
    #[must_use]
    pub fn general_number(self) -> Option<u8> {
        (self.0 < 16).then_some(self.0)
    }

    /// The encoding number, if this is a vector register.
    #[must_use]
    pub fn vector_number(self) -> Option<u8> {
        (16..48).contains(&self.0).then(|| self.0 - 16)
    }

    pub(crate) fn from_iced(register: IcedRegister) -> Option<Self> {
        let number = u8::try_from(register.full_register().number()).ok()?;
        if register.is_gpr() {
            Self::general(number)
        } else if register.is_vector_register() {
            Self::vector(number)
        } else if register.is_k() {
            Some(Self(48 + number % 8))
        } else if register.is_mm() {
            Some(Self(56 + number % 8))
        } else {
            None
        }
    }
}

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const GENERAL: [&str; 16] = [
            "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11",
            "r12", "r13", "r14", "r15",
        ];
        match self.0 {
            number @ 0..16 => f.write_str(GENERAL[usize::from(number)]),
            number @ 16..48 => write!(f, "xmm{}", number - 16),
            number @ 48..56 => write!(f, "k{}", number - 48),
            number => write!(f, "mm{}", number - 56),
        }
    }
}

/// A set of [`Register`]s.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct RegisterSet(u64);

impl RegisterSet {
    /// No register.
    pub const EMPTY: Self = Self(0);
    /// Every register that a called function may change: all but rbx, rsp, rbp and r12 to
    /// r15 (psABI 3.2.1).
    pub const CALLER_SAVED: Self = Self(!0xf038);
    pub(crate) const VECTORS: Self = Self(0xffff_ffff << 16);
    pub(crate) const MMX: Self = Self(0xff << 56);

    /// Whether no register is in the set.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether `register` is in the set.
    #[must_use]
    pub fn contains(self, register: Register) -> bool {
        self.0 & (1 << register.0) != 0
    }

    /// The registers, lowest number first.
    pub fn iter(self) -> impl Iterator<Item = Register> {
        (0..64)
            .map(Register)
            .filter(move |register| self.contains(*register))
    }
}

impl From<Register> for RegisterSet {
    fn from(register: Register) -> Self {
        Self(1 << register.0)
    }
}

impl FromIterator<Register> for RegisterSet {
    fn from_iter<I: IntoIterator<Item = Register>>(registers: I) -> Self {
        registers
            .into_iter()
            .fold(Self::EMPTY, |set, register| set | register.into())
    }
}

impl BitOr for RegisterSet {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for RegisterSet {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl BitAnd for RegisterSet {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl Sub for RegisterSet {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl fmt::Display for RegisterSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, register) in self.iter().enumerate() {
            let separator = if position == 0 { "" } else { ", " };
            write!(f, "{separator}{register}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for RegisterSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

/// What one instruction does to registers. The low byte of a general register counts
/// separately from the rest, because `setcc %al; movzbl %al, %eax` reads nothing old.
#[derive(Clone, Copy, Default)]
pub(crate) struct Effects {
    /// Registers whose low byte is read.
    pub(crate) reads_low: RegisterSet,
    /// Registers of which anything else is read.
    pub(crate) reads_rest: RegisterSet,
    /// Vector registers read wider than 128 bits.
    pub(crate) reads_wide: RegisterSet,
    /// Registers whose low byte is surely overwritten.
    pub(crate) kills_low: RegisterSet,
    /// Registers that are otherwise surely overwritten.
    pub(crate) kills_rest: RegisterSet,
    /// Registers of which anything may be written.
    pub(crate) writes: RegisterSet,
    /// A vector register is named with more than 128 bits.
    pub(crate) wide: bool,
}

/// The effects of `instruction`, a call's callee not included.
pub(crate) fn effects_of(
    instruction: &Instruction,
    factory: &mut InstructionInfoFactory,
) -> Effects {
    let mut effects = Effects::default();
    if matches!(instruction.mnemonic(), Mnemonic::Vzeroupper | Mnemonic::Nop) {
        return effects;
    }
    for used in factory.info(instruction).used_registers() {
        let Some(register) = Register::from_iced(used.register()) else {
            continue;
        };
        let set = RegisterSet::from(register);
        let byte = used.register().is_gpr8();
        let high_byte = matches!(
            used.register(),
            IcedRegister::AH | IcedRegister::BH | IcedRegister::CH | IcedRegister::DH
        );
        let wide = used.register().is_ymm() || used.register().is_zmm();
        let access = used.access();
        if is_read(access) {
            effects.reads_low |= if high_byte { RegisterSet::EMPTY } else { set };
            effects.reads_rest |= if byte && !high_byte {
                RegisterSet::EMPTY
            } else {
                set
            };
            effects.reads_wide |= if wide { set } else { RegisterSet::EMPTY };
            effects.wide |= wide;
        }
        if is_write(access) {
            effects.writes |= set;
        }
        if matches!(access, OpAccess::Write | OpAccess::ReadWrite) && !high_byte {
            effects.kills_low |= set;
            let whole = !byte && !used.register().is_gpr16();
            effects.kills_rest |= if whole { set } else { RegisterSet::EMPTY };
        }
    }
    if matches!(instruction.code(), Code::Syscall) {
        effects.writes |= Register::RAX.into();
    }
    effects
}

/// Whether `instruction` changes more of vector or mmx registers than its operands say.
pub(crate) fn hidden_writes(instruction: &Instruction) -> RegisterSet {
    if instruction.mnemonic() == Mnemonic::Vzeroupper {
        return RegisterSet::VECTORS;
    }
    let x87 = instruction
        .cpuid_features()
        .iter()
        .any(|feature| matches!(feature, CpuidFeature::FPU | CpuidFeature::MMX));
    if x87 {
        RegisterSet::MMX
    } else {
        RegisterSet::EMPTY
    }
}

fn is_read(access: OpAccess) -> bool {
    matches!(
        access,
        OpAccess::Read | OpAccess::CondRead | OpAccess::ReadWrite | OpAccess::ReadCondWrite
    )
}

fn is_write(access: OpAccess) -> bool {
    matches!(
        access,
        OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions};

    fn effects(bytes: &[u8]) -> Effects {
        let instruction = Decoder::with_ip(64, bytes, 0, DecoderOptions::NONE).decode();
        assert!(!instruction.is_invalid());
        effects_of(&instruction, &mut InstructionInfoFactory::new())
    }

    #[test]
    fn low_byte_counts_separately() {
        let sete_al = effects(&[0x0f, 0x94, 0xc0]);
        assert!(sete_al.kills_low.contains(Register::RAX));
        assert!(!sete_al.kills_rest.contains(Register::RAX));
        let movzx_eax_al = effects(&[0x0f, 0xb6, 0xc0]);
        assert!(movzx_eax_al.reads_low.contains(Register::RAX));
        assert!(!movzx_eax_al.reads_rest.contains(Register::RAX));
        assert!(movzx_eax_al.kills_rest.contains(Register::RAX));
        let mov_ah = effects(&[0xb4, 1]);
        assert!(mov_ah.kills_low.is_empty() && mov_ah.kills_rest.is_empty());
        assert!(mov_ah.writes.contains(Register::RAX));
    }

    #[test]
    fn zeroing_idioms_read_nothing() {
        assert!(effects(&[0x31, 0xc0]).reads_rest.is_empty());
        assert!(effects(&[0x66, 0x0f, 0xef, 0xc0]).reads_rest.is_empty());
        assert!(effects(&[0x31, 0xc8]).reads_rest.contains(Register::RCX));
    }

    #[test]
    fn conditional_move_overwrites_nothing_for_sure() {
        let cmove = effects(&[0x0f, 0x44, 0xc1]);
        assert!(cmove.writes.contains(Register::RAX));
        assert!(cmove.reads_rest.contains(Register::RAX) || cmove.kills_rest.is_empty());
    }

    #[test]
    fn names_and_classes() {
        let set: RegisterSet = [Register::general(8), Register::vector(3)]
            .into_iter()
            .flatten()
            .collect();
        assert_eq!(set.to_string(), "r8, xmm3");
        assert!(!RegisterSet::CALLER_SAVED.contains(Register::RSP));
        assert!(!RegisterSet::CALLER_SAVED.contains(Register::general(12).unwrap()));
        assert!(RegisterSet::CALLER_SAVED.contains(Register::general(11).unwrap()));
        assert!(RegisterSet::CALLER_SAVED.contains(Register::RDI));
    }
}
