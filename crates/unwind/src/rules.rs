//! Applying one row of call frame information to the registers of a frame.

use gimli::{CfaRule, EhFrame, Register, RegisterRule, UnwindExpression, UnwindTableRow};

use crate::ReasonKind;
use crate::cfi::Bytes;
use crate::expression::evaluate;
use crate::registers::{RETURN_ADDRESS, RSP, Recovered, forget_caller_saved};
use crate::stack::StackReader;

/// A frame whose row of rules is known.
pub(crate) struct Activation<'a> {
    pub(crate) section: EhFrame<Bytes<'a>>,
    pub(crate) row: &'a UnwindTableRow<usize>,
    /// The frame's program counter, which a PLT's rules depend on.
    pub(crate) pc: u64,
    pub(crate) registers: &'a Recovered,
    pub(crate) signal_frame: bool,
}

/// Where a frame returns to: `pc`, read from `slot` unless a register held it.
pub(crate) struct ReturnAddress {
    pub(crate) pc: u64,
    pub(crate) slot: Option<u64>,
}

/// A recovered value and the address it was read from, if it was.
struct Value {
    value: Option<u64>,
    slot: Option<u64>,
}

impl Value {
    fn computed(value: u64) -> Self {
        Self {
            value: Some(value),
            slot: None,
        }
    }
}

impl Activation<'_> {
    /// Whether the rules say, explicitly, that nobody is returned to.
    pub(crate) fn has_undefined_return_address(&self) -> bool {
        let rule = self.row.register(column(RETURN_ADDRESS));
        matches!(rule, Some(RegisterRule::Undefined))
    }

    pub(crate) fn cfa(&self, stack: &mut StackReader<'_>) -> Result<u64, ReasonKind> {
        match self.row.cfa() {
            CfaRule::RegisterAndOffset { register, offset } => {
                Ok(self.register(*register)?.wrapping_add_signed(*offset))
            }
            CfaRule::Expression(expression) => self.evaluate(expression, None, stack),
        }
    }

    pub(crate) fn return_address(
        &self,
        cfa: u64,
        stack: &mut StackReader<'_>,
    ) -> Result<ReturnAddress, ReasonKind> {
        let unsupported = ReasonKind::UnsupportedRule(RETURN_ADDRESS as u16);
        match self.row.register(column(RETURN_ADDRESS)) {
            None | Some(RegisterRule::SameValue | RegisterRule::Undefined) => Err(unsupported),
            Some(rule) => {
                let Value { value, slot } = self.recover(RETURN_ADDRESS, &rule, cfa, stack)?;
                let pc = value.ok_or(unsupported)?;
                Ok(ReturnAddress { pc, slot })
            }
        }
    }

    /// The general registers as the caller had them (after a signal: as they were
    /// interrupted).
    pub(crate) fn caller_registers(
        &self,
        cfa: u64,
        stack: &mut StackReader<'_>,
    ) -> Result<Recovered, ReasonKind> {
        let mut caller = *self.registers;
        if !self.signal_frame {
            forget_caller_saved(&mut caller);
        }
        caller[RSP] = Some(cfa);
        for (register, rule) in self.row.registers() {
            if let Some(slot) = caller.get_mut(usize::from(register.0)) {
                *slot = self.recover(register.0.into(), rule, cfa, stack)?.value;
            }
        }
        Ok(caller)
    }

    fn recover(
        &self,
        number: usize,
        rule: &RegisterRule<usize>,
        cfa: u64,
        stack: &mut StackReader<'_>,
    ) -> Result<Value, ReasonKind> {
        let saved_at = |slot: u64, stack: &mut StackReader<'_>| {
            Ok::<_, ReasonKind>(Value {
                value: Some(stack.word(slot)?),
                slot: Some(slot),
            })
        };
        match rule {
            RegisterRule::Undefined => Ok(Value {
                value: None,
                slot: None,
            }),
            RegisterRule::SameValue => Ok(Value {
                value: self.registers.get(number).copied().flatten(),
                slot: None,
            }),
            RegisterRule::Offset(offset) => saved_at(cfa.wrapping_add_signed(*offset), stack),
            RegisterRule::ValOffset(offset) => {
                Ok(Value::computed(cfa.wrapping_add_signed(*offset)))
            }
            RegisterRule::Register(other) => Ok(Value::computed(self.register(*other)?)),
            RegisterRule::Expression(expression) => {
                let slot = self.evaluate(expression, Some(cfa), stack)?;
                saved_at(slot, stack)
            }
            RegisterRule::ValExpression(expression) => Ok(Value::computed(self.evaluate(
                expression,
                Some(cfa),
                stack,
            )?)),
            _ => Err(ReasonKind::UnsupportedRule(number as u16)),
        }
    }

    fn evaluate(
        &self,
        expression: &UnwindExpression<usize>,
        initial: Option<u64>,
        stack: &mut StackReader<'_>,
    ) -> Result<u64, ReasonKind> {
        let expression = expression
            .get(&self.section)
            .map_err(ReasonKind::MalformedCfi)?;
        evaluate(
            expression,
            initial,
            |register| self.register(register),
            stack,
        )
    }

    fn register(&self, register: Register) -> Result<u64, ReasonKind> {
        if register == column(RETURN_ADDRESS) {
            return Ok(self.pc);
        }
        self.registers
            .get(usize::from(register.0))
            .copied()
            .flatten()
            .ok_or(ReasonKind::LostRegister(register.0))
    }
}

fn column(number: usize) -> Register {
    Register(number as u16)
}
