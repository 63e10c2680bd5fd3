//! SITE UTIME in its two customary forms: `YYYYMMDDhhmm[ss] path` and `path access modify create UTC`.
use super::time::{parse_timeval, parse_utime_short};

/// What is to be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Utime<'a> {
    pub path: &'a [u8],
    /// Seconds since 1970.
    pub modified: i64,
    /// Seconds since 1970; None leaves it alone.
    pub accessed: Option<i64>,
}

/// None where neither form fits.
pub fn parse_site_utime(argument: &[u8]) -> Option<Utime<'_>> {
    long_form(argument).or_else(|| short_form(argument))
}

/// The path may hold spaces, so the times are looked for from the end.
fn long_form(argument: &[u8]) -> Option<Utime<'_>> {
    let mut parts = argument.rsplitn(5, |&byte| byte == b' ');
    let zone = parts.next()?;
    let (_created, modified, accessed) = (
        parse_timeval(parts.next()?)?,
        parse_timeval(parts.next()?)?,
        parse_timeval(parts.next()?)?,
    );
    let path = parts.next().filter(|path| !path.is_empty())?;
    zone.eq_ignore_ascii_case(b"UTC").then_some(Utime {
        path,
        modified: modified.0,
        accessed: Some(accessed.0),
    })
}

fn short_form(argument: &[u8]) -> Option<Utime<'_>> {
    let space = argument.iter().position(|&byte| byte == b' ')?;
    let path = Some(&argument[space + 1..]).filter(|path| !path.is_empty())?;
    Some(Utime {
        path,
        modified: parse_utime_short(&argument[..space])?,
        accessed: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let long =
            parse_site_utime(b"a b 19700101000001 19700101000002 19700101000003 UTC").unwrap();
        assert_eq!(
            long,
            Utime {
                path: b"a b",
                modified: 2,
                accessed: Some(1)
            }
        );
        let short = parse_site_utime(b"197001010001 a b").unwrap();
        assert_eq!(
            short,
            Utime {
                path: b"a b",
                modified: 60,
                accessed: None
            }
        );
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            &b""[..],
            b"x",
            b"197001010001",
            b"197001010001 ",
            b"19700101 x",
            b"a 19700101000001 19700101000002 19700101000003 CET",
        ] {
            assert_eq!(
                parse_site_utime(bad),
                None,
                "{}",
                String::from_utf8_lossy(bad)
            );
        }
    }
}
