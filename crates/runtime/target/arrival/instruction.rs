//! How long an x86-64 instruction is, and what in it depends on where it stands (Intel SDM
//! volume 2: chapter 2 for the format, appendix A for the opcode maps).
//!
//! What is not known for certain is refused: opcodes that are invalid in 64-bit mode, that
//! only some vendors have (3DNow!, XOP, SSE4a), or that processors read differently.
//! Combinations that are undefined, but whose length is not in doubt, may be accepted: they
//! raise #UD wherever they stand.

use super::opcodes::{
    EVEX, LEGACY_3A, LEGACY_38, MAP_1_IMMEDIATE, ONE_BYTE, Opcodes, TWO_BYTE, VEX, contains,
};

/// Longest instruction in bytes (2.3.11).
const LONGEST: usize = 15;

/// One instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instruction {
    /// In bytes.
    pub(crate) length: usize,
    /// Where in it the 32-bit displacement of a rip-relative operand is, if it has one.
    pub(crate) displacement: Option<usize>,
    pub(crate) flow: Flow,
}

/// Where an instruction leads. Distances are from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// To the next one, or it traps.
    Next,
    /// A return or an indirect jump.
    Away,
    /// A call through a register or memory.
    IndirectCall,
    Call(i64),
    Jump(i64),
    /// A jump under the condition with this code (appendix B.1.4.7).
    Condition(u8, i64),
    /// A branch that has no form with a 32-bit distance, or is no mere jump: `loop`, `jrcxz`
    /// and their kin, and `xbegin`.
    Peculiar(i64),
}

impl Flow {
    /// The distance, if the instruction names it.
    pub(crate) fn distance(self) -> Option<i64> {
        match self {
            Self::Next | Self::Away | Self::IndirectCall => None,
            Self::Call(distance)
            | Self::Jump(distance)
            | Self::Condition(_, distance)
            | Self::Peculiar(distance) => Some(distance),
        }
    }
}

/// Decodes the instruction that begins `bytes`. `None` if it is not known for certain, cut off
/// or too long.
pub(crate) fn decode(bytes: &[u8]) -> Option<Instruction> {
    let mut decoder = Decoder {
        bytes: bytes.get(..LONGEST).unwrap_or(bytes),
        ..Decoder::default()
    };
    match decoder.take_prefixes()? {
        0x0f => match decoder.take()? {
            0x38 => decoder.take_listed(&LEGACY_38, 0),
            0x3a => decoder.take_listed(&LEGACY_3A, 1),
            opcode => decoder.take_form(&TWO_BYTE, opcode),
        },
        0xc5 => decoder.take_vex(1),
        0xc4 => {
            let map = decoder.take()? & 0x1f;
            decoder.take_vex(map)
        }
        0x62 => decoder.take_evex(),
        opcode => decoder.take_form(&ONE_BYTE, opcode),
    }
}

#[derive(Default)]
struct Decoder<'a> {
    bytes: &'a [u8],
    /// How many of them have been taken.
    at: usize,
    /// Prefix 66.
    operand_size: bool,
    /// Prefix 67.
    address_size: bool,
    /// Prefix F3, unless F2 follows.
    repeat: bool,
    /// A prefix that must not stand before VEX and EVEX (2.3.2 to 2.3.4).
    bars_vector: bool,
    /// REX.W.
    wide: bool,
    displacement: Option<usize>,
}

impl Decoder<'_> {
    fn take(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    /// Takes prefixes and the byte behind them (2.1.1, 2.2.1). REX in front of another prefix
    /// would be ignored; nothing has it there on purpose, so that this prefix is taken for an
    /// opcode, which no map has.
    fn take_prefixes(&mut self) -> Option<u8> {
        loop {
            let byte = self.take()?;
            match byte {
                0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 => {}
                0x66 => self.operand_size = true,
                0x67 => self.address_size = true,
                0xf2 | 0xf3 => self.repeat = byte == 0xf3,
                0xf0 => {}
                0x40..=0x4f => self.wide = byte & 8 != 0,
                _ => return Some(byte),
            }
            self.bars_vector |= matches!(byte, 0x66 | 0xf0 | 0xf2 | 0xf3 | 0x40..=0x4f);
            if byte & 0xf0 == 0x40 {
                return self.take();
            }
        }
    }

    /// REX.W goes before 66 (2.2.1.2).
    fn has_small_operand(&self) -> bool {
        self.operand_size && !self.wide
    }

    fn take_form(&mut self, map: &[u8; 256], opcode: u8) -> Option<Instruction> {
        let by_operand = if self.has_small_operand() { 2 } else { 4 };
        let form = *map.get(usize::from(opcode))?;
        if matches!(form, b'm' | b'M' | b'Z' | b'p') {
            self.take_operands()?;
        }
        match form {
            b'-' | b'm' => self.finish(0, Flow::Next),
            b'p' if self.repeat => self.finish(0, Flow::Next),
            b'x' => self.finish(1, Flow::Next),
            b'b' | b'M' => self.finish(1, Flow::Next),
            b'e' => self.finish(3, Flow::Next),
            b'v' if self.wide => self.finish(8, Flow::Next),
            b'z' | b'Z' | b'v' => self.finish(by_operand, Flow::Next),
            b'o' => self.finish(if self.address_size { 4 } else { 8 }, Flow::Next),
            b'r' => self.finish(0, Flow::Away),
            b'R' => self.finish(2, Flow::Away),
            b'c' => self.take_short(|distance| Flow::Condition(opcode & 15, distance)),
            b'j' => self.take_short(Flow::Jump),
            b'l' => self.take_short(Flow::Peculiar),
            b'C' => self.take_near(|distance| Flow::Condition(opcode & 15, distance)),
            b'J' => self.take_near(Flow::Jump),
            b'k' => self.take_near(Flow::Call),
            b'g' => self.take_group(opcode, by_operand),
            _ => None,
        }
    }

    /// Opcodes of the one-byte map that the ModRM byte extends (appendix A.4).
    fn take_group(&mut self, opcode: u8, by_operand: usize) -> Option<Instruction> {
        let modrm = self.take_operands()?;
        match (opcode, modrm >> 3 & 7) {
            (0x8f | 0xfe, 0) | (0xfe, 1) => self.finish(0, Flow::Next),
            // mov, or test
            (0xc6 | 0xf6, 0) => self.finish(1, Flow::Next),
            (0xc7 | 0xf7, 0) => self.finish(by_operand, Flow::Next),
            (0xf6 | 0xf7, 2..) => self.finish(0, Flow::Next),
            // xabort
            (0xc6, 7) if modrm == 0xf8 => self.finish(1, Flow::Next),
            (0xc7, 7) if modrm == 0xf8 => self.take_near(Flow::Peculiar),
            (0xff, 0 | 1 | 6) => self.finish(0, Flow::Next),
            (0xff, 2 | 4) if self.has_small_operand() => None,
            (0xff, 2 | 3) => self.finish(0, Flow::IndirectCall),
            (0xff, 4 | 5) => self.finish(0, Flow::Away),
            _ => None,
        }
    }

    /// VEX (2.3.5), behind the byte with the map.
    fn take_vex(&mut self, map: u8) -> Option<Instruction> {
        let set = VEX.get(usize::from(map.wrapping_sub(1)))?;
        self.take()?;
        if map == 1 && self.bytes.get(self.at) == Some(&0x77) && !self.bars_vector {
            // vzeroupper, vzeroall
            self.take()?;
            return self.finish(0, Flow::Next);
        }
        self.take_vector(map, set)
    }

    /// EVEX (2.7.1).
    fn take_evex(&mut self) -> Option<Instruction> {
        let [first, second, _] = [self.take()?, self.take()?, self.take()?];
        let map = first & 7;
        let reserved_as_ever = first & 8 == 0 && second & 4 != 0;
        let set = EVEX.get(usize::from(map.wrapping_sub(1)))?;
        self.take_vector(map, set).filter(|_| reserved_as_ever)
    }

    fn take_vector(&mut self, map: u8, set: &Opcodes) -> Option<Instruction> {
        let opcode = self.take()?;
        let has_immediate = map == 3 || map == 1 && contains(&MAP_1_IMMEDIATE, opcode);
        if self.bars_vector || !contains(set, opcode) {
            return None;
        }
        self.take_operands()?;
        self.finish(usize::from(has_immediate), Flow::Next)
    }

    /// An opcode, if `set` has it, a ModRM byte and an immediate.
    fn take_listed(&mut self, set: &Opcodes, immediate: usize) -> Option<Instruction> {
        let opcode = self.take()?;
        if !contains(set, opcode) {
            return None;
        }
        self.take_operands()?;
        self.finish(immediate, Flow::Next)
    }

    /// Takes the ModRM byte, SIB and displacement (2.1.3, 2.1.5, 2.2.1.6) and returns the
    /// ModRM byte.
    fn take_operands(&mut self) -> Option<u8> {
        let modrm = self.take()?;
        let (mode, register) = (modrm >> 6, modrm & 7);
        let base = if mode != 3 && register == 4 {
            self.take()? & 7
        } else {
            register
        };
        if mode == 0 && register == 5 {
            // Relative to eip: the sum is cut to 32 bits.
            if self.address_size {
                return None;
            }
            self.displacement = Some(self.at);
        }
        self.at += match mode {
            0 if base == 5 => 4,
            1 => 1,
            2 => 4,
            _ => 0,
        };
        Some(modrm)
    }

    /// Intel's processors ignore 66 in front of near branches (table A-1, f64), AMD's cut the
    /// destination to 16 bits: refused.
    fn take_short(&mut self, flow: impl FnOnce(i64) -> Flow) -> Option<Instruction> {
        if self.has_small_operand() {
            return None;
        }
        let distance = self.take()?.cast_signed();
        self.finish(0, flow(i64::from(distance)))
    }

    fn take_near(&mut self, flow: impl FnOnce(i64) -> Flow) -> Option<Instruction> {
        if self.has_small_operand() {
            return None;
        }
        let distance = self.bytes.get(self.at..)?.first_chunk()?;
        let distance = i32::from_le_bytes(*distance);
        self.finish(4, flow(i64::from(distance)))
    }

    fn finish(&self, immediate: usize, flow: Flow) -> Option<Instruction> {
        let length = self.at + immediate;
        (length <= self.bytes.len()).then_some(Instruction {
            length,
            displacement: self.displacement,
            flow,
        })
    }
}
