//! What was measured, beside what it should be.

use serde_json::{Value, json};

/// One line of the table.
pub(super) struct Measurement {
    pub(super) what: String,
    pub(super) value: f64,
    /// `%`, `s`, or what the value counts; `x` for a ratio.
    pub(super) unit: &'static str,
    /// The value must be below this.
    pub(super) below: Option<f64>,
}

impl Measurement {
    pub(super) fn new(what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self {
            what: what.into(),
            value,
            unit,
            below: None,
        }
    }

    pub(super) fn below(mut self, limit: f64) -> Self {
        self.below = Some(limit);
        self
    }

    pub(super) fn is_met(&self) -> bool {
        self.below.is_none_or(|limit| self.value < limit)
    }

    pub(super) fn line(&self) -> String {
        let goal = match self.below {
            Some(limit) if self.is_met() => format!("below {limit} {}", self.unit),
            Some(limit) => format!("NOT below {limit} {}", self.unit),
            None => String::new(),
        };
        let line = format!(
            "{:<58}{:>12.3} {:<9}{goal}",
            self.what, self.value, self.unit
        );
        line.trim_end().to_owned()
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "what": self.what,
            "value": self.value,
            "unit": self.unit,
            "below": self.below,
            "met": self.is_met(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Measurement;

    #[test]
    fn a_goal_is_missed_by_the_limit_itself() {
        let measure = |value: f64| Measurement::new("share", value, "%").below(5.0);
        assert!(measure(4.9).is_met());
        assert!(!measure(5.0).is_met());
        assert!(measure(5.0).line().contains("NOT below 5 %"));
        assert!(Measurement::new("ratio", 9.0, "x").is_met());
    }
}
