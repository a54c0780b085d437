//! Days and dates in the Gregorian calendar, for years 0 to 9999.

/// Seconds in a day.
pub const DAY: i64 = 86_400;

/// A moment as a clock shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moment {
    /// Year, e.g. 2026.
    pub year: i64,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 1 (Sunday) to 7.
    pub weekday: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in(year: i64, month: u8) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

// Days before 1 January of a year, from 1 January of year 0.
fn days_before(year: i64) -> i64 {
    let last = year - 1;
    // Year 0 is a leap year that the three quotients don't count.
    if year <= 0 { 0 } else { 365 * year + last / 4 - last / 100 + last / 400 + 1 }
}

impl Moment {
    /// The moment so many seconds after the beginning of 1970.
    pub fn from_seconds(seconds: i64) -> Self {
        let days = seconds.div_euclid(DAY) + days_before(1970);
        let of_day = seconds.rem_euclid(DAY);
        let mut year = (days / 366).max(0);
        while days_before(year + 1) <= days {
            year += 1;
        }
        let (mut rest, mut month) = (days - days_before(year), 1);
        while rest >= days_in(year, month) && month < 12 {
            rest -= days_in(year, month);
            month += 1;
        }
        Self {
            year,
            month,
            day: (rest + 1) as u8,
            // 1 January of year 0 was a Saturday.
            weekday: ((days + 6).rem_euclid(7) + 1) as u8,
            hour: (of_day / 3600) as u8,
            minute: (of_day / 60 % 60) as u8,
            second: (of_day % 60) as u8,
        }
    }

    /// Seconds after the beginning of 1970. Fields past their range carry over, as a guest may write anything.
    pub fn to_seconds(self) -> i64 {
        let year = self.year.clamp(0, 9999);
        let months = (1..self.month.clamp(1, 12)).map(|month| days_in(year, month)).sum::<i64>();
        let days = days_before(year) - days_before(1970) + months + i64::from(self.day) - 1;
        days * DAY + i64::from(self.hour) * 3600 + i64::from(self.minute) * 60 + i64::from(self.second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        let moment = |seconds| {
            let m = Moment::from_seconds(seconds);
            (m.year, m.month, m.day, m.weekday, m.hour, m.minute, m.second)
        };
        assert_eq!(moment(0), (1970, 1, 1, 5, 0, 0, 0));
        assert_eq!(moment(951_827_696), (2000, 2, 29, 3, 12, 34, 56));
        assert_eq!(moment(4_102_444_799), (2099, 12, 31, 5, 23, 59, 59));
        assert_eq!(moment(-1), (1969, 12, 31, 4, 23, 59, 59));
    }

    #[test]
    fn every_day_of_four_centuries_comes_back() {
        for day in -40_000..110_000 {
            let seconds = day * DAY + 12_345;
            assert_eq!(Moment::from_seconds(seconds).to_seconds(), seconds);
        }
    }
}
