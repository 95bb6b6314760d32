//! `check`: whole numbers added, taken away and compared.

use crate::peer::text::number;

const SIGNS: [&str; 6] = ["<=", ">=", "!=", "=", "<", ">"];

/// Checks a comparison such as `1 + 2 <= 4`; the error names both sides.
pub(super) fn check(text: &str) -> Result<(), String> {
    let sign = SIGNS.iter().find(|sign| text.contains(**sign)).ok_or("a comparison expected")?;
    let (left, right) = text.split_once(sign).ok_or("a comparison expected")?;
    let (left, right) = (sum(left)?, sum(right)?);
    let holds = match *sign {
        "<=" => left <= right,
        ">=" => left >= right,
        "!=" => left != right,
        "<" => left < right,
        ">" => left > right,
        _ => left == right,
    };
    if holds { Ok(()) } else { Err(format!("{left} {sign} {right} does not hold ({text})")) }
}

fn sum(text: &str) -> Result<i128, String> {
    let (mut total, mut sign) = (0i128, 1);
    for word in text.split_whitespace() {
        match word {
            "+" => sign = 1,
            "-" => sign = -1,
            word => total = total.saturating_add(number::<i128>(word)?.saturating_mul(sign)),
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn sums_are_compared() {
        assert!(check("1 + 2 - 1 = 2").is_ok());
        assert!(check("3 >= 4").is_err() && check("3 != 4").is_ok() && check("-1 < 0").is_ok());
        assert!(check("3").is_err() && check("x = 1").is_err());
    }
}
