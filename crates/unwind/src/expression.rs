//! DWARF expressions in call frame information (PLT, signal trampolines, assembly).

use gimli::{Encoding, EvaluationResult, Expression, Format, Location, Register, Value};

use crate::ReasonKind;
use crate::cfi::Bytes;
use crate::stack::StackReader;

/// Real ones have fewer than twenty operations.
const MAX_OPERATIONS: u32 = 1_000;

const ENCODING: Encoding = Encoding {
    address_size: 8,
    format: Format::Dwarf32,
    version: 4,
};

/// The value of `expression`; `initial` is pushed first, as register rules ask for
/// (DWARF 4, section 6.4.2.3).
pub(crate) fn evaluate(
    expression: Expression<Bytes<'_>>,
    initial: Option<u64>,
    register_value: impl Fn(Register) -> Result<u64, ReasonKind>,
    stack: &mut StackReader<'_>,
) -> Result<u64, ReasonKind> {
    let mut evaluation = expression.evaluation(ENCODING);
    evaluation.set_max_iterations(MAX_OPERATIONS);
    if let Some(value) = initial {
        evaluation.set_initial_value(value);
    }
    let mut result = evaluation.evaluate().map_err(ReasonKind::MalformedCfi)?;
    loop {
        result = match result {
            EvaluationResult::Complete => break,
            EvaluationResult::RequiresMemory {
                address,
                size,
                space: None,
                ..
            } => {
                let word = read_sized(stack, address, size)?;
                evaluation.resume_with_memory(Value::Generic(word))
            }
            EvaluationResult::RequiresRegister { register, .. } => {
                let value = register_value(register)?;
                evaluation.resume_with_register(Value::Generic(value))
            }
            _ => return Err(ReasonKind::UnsupportedExpression),
        }
        .map_err(ReasonKind::MalformedCfi)?;
    }
    match evaluation.as_result() {
        [piece] => match piece.location {
            Location::Address { address } => Ok(address),
            _ => Err(ReasonKind::UnsupportedExpression),
        },
        _ => Err(ReasonKind::UnsupportedExpression),
    }
}

fn read_sized(stack: &mut StackReader<'_>, address: u64, size: u8) -> Result<u64, ReasonKind> {
    match size {
        8 => Ok(stack.word(address)?),
        1..8 => {
            let mut word = [0; 8];
            stack.memory().read(address, &mut word[..size.into()])?;
            Ok(u64::from_le_bytes(word))
        }
        _ => Err(ReasonKind::UnsupportedExpression),
    }
}
