//! What a right answer is. Knows the arithmetic of every version of the server's functions
//! (`program/shop.c` and the diffs of it), and which versions belong together.

/// The code that all threads run, or part of them during a transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Universe {
    /// No patch.
    Original,
    /// `fix1.patch`.
    Fix1,
    /// Both.
    Fix12,
    /// `fix2.patch`.
    Fix2,
}

impl Universe {
    const ALL: [Self; 4] = [Self::Original, Self::Fix1, Self::Fix12, Self::Fix2];

    /// The version tags of handle_request, price_order and format_amount. No tag of any two
    /// of these lines can be exchanged without making a line that is not here, so every mix
    /// of old and new code shows.
    fn tags(self) -> [u32; 3] {
        match self {
            Self::Original => [0, 0, 0],
            Self::Fix1 => [1, 1, 0],
            Self::Fix12 => [3, 3, 3],
            Self::Fix2 => [2, 0, 2],
        }
    }

    /// A set with one member.
    pub(super) fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// What the server was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) id: u64,
    pub(super) quantity: i64,
    /// Cents.
    pub(super) unit_price: i64,
}

impl Order {
    pub(super) fn request(&self) -> String {
        format!("order {} {} {}\n", self.id, self.quantity, self.unit_price)
    }
}

/// What the server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Receipt {
    pub(super) id: u64,
    tags: [u32; 3],
    total: i64,
    text: String,
}

impl Receipt {
    pub(super) fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let receipt = Self {
            id: words.next()?.parse().ok()?,
            tags: [
                words.next()?.parse().ok()?,
                words.next()?.parse().ok()?,
                words.next()?.parse().ok()?,
            ],
            total: words.next()?.parse().ok()?,
            text: words.next()?.to_owned(),
        };
        words.next().is_none().then_some(receipt)
    }
}

/// A verdict on one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// Made by one universe that was possible at the time, and computed as that one does.
    Right,
    /// Made by functions that never belong together.
    Mixed,
    /// Computed otherwise than its tags say, or by code that should be gone or not yet here.
    Wrong,
}

/// Judges an answer; `possible` is the set of universes that threads may have been in.
pub(super) fn judge(order: &Order, receipt: &Receipt, possible: u32) -> Judgement {
    let Some(universe) = Universe::ALL.into_iter().find(|u| u.tags() == receipt.tags) else {
        return Judgement::Mixed;
    };
    let [_, price, format] = receipt.tags;
    let total = price_order(order, price);
    let right = receipt.id == order.id
        && receipt.total == total
        && receipt.text == format_amount(total, format)
        && possible & universe.bit() != 0;
    if right {
        Judgement::Right
    } else {
        Judgement::Wrong
    }
}

fn price_order(order: &Order, version: u32) -> i64 {
    let total = order.quantity * order.unit_price;
    match (order.quantity >= 10, version) {
        (false, _) => total,
        (true, 0) => total - order.unit_price / 10,
        (true, _) => total - total / 10,
    }
}

fn format_amount(total: i64, version: u32) -> String {
    let (whole, cents) = (total / 100, total % 100);
    match version {
        0 => format!("{whole}.{cents}"),
        _ => format!("{whole}.{cents:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDER: Order = Order {
        id: 5,
        quantity: 10,
        unit_price: 1005,
    };
    const ANY: u32 = 0b1111;

    fn judge_line(line: &str, possible: u32) -> Judgement {
        judge(&ORDER, &Receipt::parse(line).unwrap(), possible)
    }

    #[test]
    fn every_universe_has_its_own_right_answer() {
        for (universe, line) in [
            (Universe::Original, "5 0 0 0 9950 99.50"),
            (Universe::Fix1, "5 1 1 0 9045 90.45"),
            (Universe::Fix12, "5 3 3 3 9045 90.45"),
            (Universe::Fix2, "5 2 0 2 9950 99.50"),
        ] {
            assert_eq!(judge_line(line, universe.bit()), Judgement::Right, "{line}");
            assert_eq!(
                judge_line(line, ANY & !universe.bit()),
                Judgement::Wrong,
                "{line}"
            );
        }
    }

    #[test]
    fn an_exchanged_tag_is_a_mix() {
        let tags: Vec<[u32; 3]> = Universe::ALL
            .iter()
            .map(|universe| universe.tags())
            .collect();
        for (first, second) in tags.iter().flat_map(|a| tags.iter().map(move |b| (a, b))) {
            for mask in 1..7 {
                let mix: [u32; 3] = std::array::from_fn(|i| {
                    if mask >> i & 1 == 0 {
                        first[i]
                    } else {
                        second[i]
                    }
                });
                let line = format!("5 {} {} {} 0 0.0", mix[0], mix[1], mix[2]);
                let harmless = mix == *first || mix == *second;
                let expected = if harmless {
                    Judgement::Wrong
                } else {
                    Judgement::Mixed
                };
                assert_eq!(judge_line(&line, ANY), expected, "{line}");
            }
        }
    }

    #[test]
    fn computed_otherwise_is_wrong() {
        assert_eq!(judge_line("5 0 0 0 9045 90.45", ANY), Judgement::Wrong);
        assert_eq!(judge_line("6 0 0 0 9950 99.50", ANY), Judgement::Wrong);
        let cents = Order {
            id: 5,
            quantity: 1,
            unit_price: 1205,
        };
        let judge_cents = |line: &str| judge(&cents, &Receipt::parse(line).unwrap(), ANY);
        assert_eq!(judge_cents("5 0 0 0 1205 12.5"), Judgement::Right);
        assert_eq!(judge_cents("5 0 0 0 1205 12.05"), Judgement::Wrong);
        assert_eq!(judge_cents("5 2 0 2 1205 12.05"), Judgement::Right);
        assert_eq!(judge_cents("5 2 0 2 1205 12.5"), Judgement::Wrong);
    }

    #[test]
    fn damaged_lines_are_no_receipts() {
        for line in [
            "",
            "5 0 0 0 9950",
            "5 0 0 0 9950 99.50 x",
            "x 0 0 0 9950 99.50",
            "5 -1 0 0 1 1",
        ] {
            assert_eq!(Receipt::parse(line), None, "{line}");
        }
    }
}
