//! Module parameters: `NAME=VALUE` words of the command line become values in a module's
//! data, before its init function runs.

use std::num::IntErrorKind;

use engraft_abi::{PARAM_ARRAY, ParamKind};
use engraft_module::{Linked, LinkedParam};
use nix::errno::Errno;

use crate::error::Error;

/// What is to be written where.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Assignment {
    /// Bytes of a number.
    Bytes(u64, Vec<u8>),
    /// A string: a pointer to a copy of it.
    Pointer(u64, String),
}

/// What is wrong with a value: the kernel's errno, and words.
type Fault = (Errno, String);

fn invalid(message: impl Into<String>) -> Fault {
    (Errno::EINVAL, message.into())
}

/// Computes the assignments; nothing is written. Unlike the kernel, which warns of a name
/// that the module does not know and goes on, this refuses it: it is a typing error.
pub(crate) fn assign(
    module: &str,
    linked: &Linked,
    words: &[(String, String)],
) -> Result<Vec<Assignment>, Error> {
    let mut assignments = Vec::new();
    for (name, value) in words {
        let refuse = |(errno, message): Fault| {
            Error::other(
                format!("parameter '{name}' of module '{module}'"),
                errno,
                message,
            )
        };
        // As the kernel does, `-` and `_` are the same in names.
        let same = |param: &&LinkedParam| param.name.replace('-', "_") == name.replace('-', "_");
        let param = linked.params.iter().find(same).ok_or_else(|| {
            let mut known: Vec<&str> = linked.params.iter().map(|p| p.name.as_str()).collect();
            known.sort_unstable();
            refuse(invalid("no such parameter")).with_help(match known.as_slice() {
                [] => "the module has no parameters".to_owned(),
                known => format!("it has: {}", known.join(", ")),
            })
        })?;
        assign_one(param, value, &mut assignments).map_err(refuse)?;
    }
    Ok(assignments)
}

fn assign_one(param: &LinkedParam, value: &str, to: &mut Vec<Assignment>) -> Result<(), Fault> {
    let record = &param.record;
    let kind =
        kind_of(record.kind & !PARAM_ARRAY).ok_or_else(|| invalid("unknown type of parameter"))?;
    if record.kind & PARAM_ARRAY == 0 {
        return assign_element(kind, record.variable, value, to);
    }
    let values: Vec<&str> = value.split(',').collect();
    if values.len() > record.elements as usize {
        let message = format!(
            "{} values, but room for {} only",
            values.len(),
            record.elements
        );
        return Err(invalid(message));
    }
    for (index, value) in values.iter().enumerate() {
        assign_element(
            kind,
            record.variable + index as u64 * size_of_kind(kind),
            value,
            to,
        )?;
    }
    if record.count != 0 {
        to.push(Assignment::Bytes(
            record.count,
            (values.len() as u32).to_le_bytes().to_vec(),
        ));
    }
    Ok(())
}

fn assign_element(
    kind: ParamKind,
    at: u64,
    value: &str,
    to: &mut Vec<Assignment>,
) -> Result<(), Fault> {
    use ParamKind as K;
    let bytes = match kind {
        K::Charp => {
            to.push(Assignment::Pointer(at, value.to_owned()));
            return Ok(());
        }
        K::Bool => vec![u8::from(parse_bool(value)?)],
        K::Byte => number::<u8>(value)?.to_le_bytes().to_vec(),
        K::Short => number::<i16>(value)?.to_le_bytes().to_vec(),
        K::Ushort => number::<u16>(value)?.to_le_bytes().to_vec(),
        K::Int => number::<i32>(value)?.to_le_bytes().to_vec(),
        K::Uint => number::<u32>(value)?.to_le_bytes().to_vec(),
        K::Long => number::<i64>(value)?.to_le_bytes().to_vec(),
        K::Ulong | K::Ullong => number::<u64>(value)?.to_le_bytes().to_vec(),
    };
    to.push(Assignment::Bytes(at, bytes));
    Ok(())
}

fn kind_of(raw: u32) -> Option<ParamKind> {
    use ParamKind as K;
    [
        K::Bool,
        K::Byte,
        K::Short,
        K::Ushort,
        K::Int,
        K::Uint,
        K::Long,
        K::Ulong,
        K::Ullong,
        K::Charp,
    ]
    .into_iter()
    .find(|kind| *kind as u32 == raw)
}

fn size_of_kind(kind: ParamKind) -> u64 {
    use ParamKind as K;
    match kind {
        K::Bool | K::Byte => 1,
        K::Short | K::Ushort => 2,
        K::Int | K::Uint => 4,
        K::Long | K::Ulong | K::Ullong | K::Charp => 8,
    }
}

/// The kernel's kstrtobool (spec section 3): only the first one or two characters count.
fn parse_bool(value: &str) -> Result<bool, Fault> {
    let mut chars = value.chars().map(|c| c.to_ascii_lowercase());
    match (chars.next(), chars.next()) {
        (Some('1' | 'y' | 't'), _) | (Some('o'), Some('n')) => Ok(true),
        (Some('0' | 'n' | 'f'), _) | (Some('o'), Some('f')) => Ok(false),
        _ => Err(invalid(format!("'{value}' is not a truth value (Y or N)"))),
    }
}

/// Decimal, octal with a leading 0, hexadecimal with 0x, as kstrtoull with base 0.
fn number<T: TryFrom<i128>>(value: &str) -> Result<T, Fault> {
    let no_number = || invalid(format!("'{value}' is not a number"));
    let out_of_range = || (Errno::ERANGE, format!("{value} is out of range"));
    let (negative, digits) = match value.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, value.strip_prefix('+').unwrap_or(value)),
    };
    let (digits, radix) = match digits {
        text if text.starts_with("0x") || text.starts_with("0X") => (&text[2..], 16),
        text if text.len() > 1 && text.starts_with('0') => (&text[1..], 8),
        text => (text, 10),
    };
    let unsigned = T::try_from(-1).is_err();
    if digits.starts_with(['+', '-']) || (negative && unsigned) {
        return Err(no_number());
    }
    let magnitude = i128::from_str_radix(digits, radix).map_err(|error| match error.kind() {
        IntErrorKind::PosOverflow => out_of_range(),
        _ => no_number(),
    })?;
    let number = if negative { -magnitude } else { magnitude };
    T::try_from(number).map_err(|_| out_of_range())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_numbers_as_the_kernel_does() {
        assert_eq!(number::<i32>("-19"), Ok(-19));
        assert_eq!(number::<u8>("0x1f"), Ok(31));
        assert_eq!(number::<u64>("0777"), Ok(0o777));
        assert_eq!(number::<u64>("18446744073709551615"), Ok(u64::MAX));
        for bad in ["", "x", "0x", "--1", "-1", "1 ", "09"] {
            let errno = number::<u8>(bad).map_err(|fault| fault.0);
            assert_eq!(errno, Err(Errno::EINVAL), "{bad}");
        }
        let huge = "9".repeat(60);
        for far in ["256", &huge] {
            let errno = number::<u8>(far).map_err(|fault| fault.0);
            assert_eq!(errno, Err(Errno::ERANGE), "{far}");
        }
    }

    #[test]
    fn reads_truth_values_as_the_kernel_does() {
        for (text, value) in [
            ("Y", true),
            ("on", true),
            ("1x", true),
            ("no", false),
            ("off", false),
        ] {
            assert_eq!(parse_bool(text), Ok(value));
        }
        for bad in ["", "o", "2", "ox"] {
            assert!(parse_bool(bad).is_err(), "{bad}");
        }
    }
}
