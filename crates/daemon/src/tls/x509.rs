//! What a certificate says of itself, as far as it is looked at here: how long it is good, for whom, and
//! what others call it by. Whether it can be believed is not decided here.

use std::net::IpAddr;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const OBJECT: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const LONG_TIME: u8 = 0x18;
/// Of a certificate: its version, and its extensions.
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
/// Of names: those of hosts, and addresses.
const HOST: u8 = 0x82;
const ADDRESS: u8 = 0x87;
/// Of what it says of its maker: the number of the maker's key.
const KEY_NUMBER: u8 = 0x80;
/// The extensions that are read, 2.5.29.17 and 2.5.29.35.
const NAMES: &[u8] = &[0x55, 0x1d, 0x11];
const MAKER: &[u8] = &[0x55, 0x1d, 0x23];

/// What a certificate says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// As it is encoded.
    pub(super) serial: Vec<u8>,
    /// Unix seconds.
    pub(super) not_before: i64,
    /// Unix seconds.
    pub(super) not_after: i64,
    /// The public key with its kind, encoded.
    pub(super) key: Vec<u8>,
    /// Hosts and addresses that it is for.
    pub(super) names: Vec<String>,
    /// The number of the key that it was signed with.
    pub(super) maker: Option<Vec<u8>>,
}

/// Reads a certificate in DER; `None` if it is none.
pub(super) fn read(der: &[u8]) -> Option<Facts> {
    let mut outer = Reader(Reader(der).take(SEQUENCE)?);
    let mut fields = Reader(outer.take(SEQUENCE)?);
    fields.skip_if(VERSION);
    let serial = fields.take(INTEGER)?.to_vec();
    fields.take(SEQUENCE)?;
    fields.take(SEQUENCE)?;
    let mut validity = Reader(fields.take(SEQUENCE)?);
    let (not_before, not_after) = (validity.time()?, validity.time()?);
    fields.take(SEQUENCE)?;
    let key = fields.element()?.whole.to_vec();
    let mut facts = Facts { serial, not_before, not_after, key, ..Facts::default() };
    while let Some(field) = fields.element() {
        if field.tag == EXTENSIONS {
            let mut extensions = Reader(Reader(field.value).take(SEQUENCE)?);
            while let Some(extension) = extensions.take(SEQUENCE) {
                facts.extend(Reader(extension));
            }
        }
    }
    Some(facts)
}

impl Facts {
    /// What an extension adds, if it is one of those that are looked at.
    fn extend(&mut self, mut extension: Reader<'_>) -> Option<()> {
        let what = extension.take(OBJECT)?;
        // Whether it is critical may stand between.
        let mut content = extension.element()?;
        if content.tag != OCTETS {
            content = extension.element()?;
        }
        let mut content = Reader(Reader(content.value).take(SEQUENCE)?);
        match what {
            MAKER => self.maker = content.take(KEY_NUMBER).map(<[u8]>::to_vec),
            NAMES => {
                while let Some(name) = content.element() {
                    self.names.extend(shown(&name));
                }
            }
            _ => {}
        }
        Some(())
    }
}

fn shown(name: &Element<'_>) -> Option<String> {
    match name.tag {
        HOST => String::from_utf8(name.value.to_vec()).ok(),
        ADDRESS => match name.value.len() {
            4 => Some(IpAddr::from(<[u8; 4]>::try_from(name.value).ok()?).to_string()),
            _ => Some(IpAddr::from(<[u8; 16]>::try_from(name.value).ok()?).to_string()),
        },
        _ => None,
    }
}

/// One value with its tag.
struct Element<'a> {
    tag: u8,
    value: &'a [u8],
    /// With tag and length.
    whole: &'a [u8],
}

/// Values one after the other.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The next value, whatever it is.
    fn element(&mut self) -> Option<Element<'a>> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            short @ 0..=0x7f => (usize::from(short), rest),
            // Longer ones than four bytes are no certificate of anybody.
            long @ 0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(long - 0x80))?;
                (bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (value, rest) = rest.split_at_checked(length)?;
        let whole = &self.0[..self.0.len() - rest.len()];
        self.0 = rest;
        Some(Element { tag, value, whole })
    }

    /// The next value, if it is one of these.
    fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        let before = self.0;
        let found = self.element().filter(|element| element.tag == tag);
        if found.is_none() {
            self.0 = before;
        }
        found.map(|element| element.value)
    }

    fn skip_if(&mut self, tag: u8) {
        let _ = self.take(tag);
    }

    /// A moment, Unix seconds.
    fn time(&mut self) -> Option<i64> {
        let element = self.element()?;
        let text = std::str::from_utf8(element.value).ok()?.strip_suffix('Z')?;
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let (year, rest) = match (element.tag, text.len()) {
            (UTC_TIME, 12) => {
                let year: i16 = text[..2].parse().ok()?;
                (if year < 50 { 2000 + year } else { 1900 + year }, &text[2..])
            }
            (LONG_TIME, 14) => (text[..4].parse().ok()?, &text[4..]),
            _ => return None,
        };
        let part = |at: usize| rest[at..at + 2].parse::<i8>().ok();
        let (month, day, hour) = (part(0)?, part(2)?, part(4)?);
        let at = jiff::civil::DateTime::new(year, month, day, hour, part(6)?, part(8)?, 0).ok()?;
        Some(at.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, Issuer, KeyPair};

    use super::*;

    fn made() -> (Vec<u8>, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::new(CertificateParams::new(Vec::new()).unwrap(), &key);
        let names = ["box.example", "*.box.example", "192.0.2.7", "2001:db8::7"];
        let mut params = CertificateParams::new(names.map(str::to_owned)).unwrap();
        params.use_authority_key_identifier_extension = true;
        params.not_before = rcgen::date_time_ymd(1999, 12, 31);
        params.not_after = rcgen::date_time_ymd(2087, 2, 28);
        params.serial_number = Some(rcgen::SerialNumber::from(vec![0x87, 0x65]));
        let leaf = KeyPair::generate().unwrap();
        (params.signed_by(&leaf, &issuer).unwrap().der().to_vec(), leaf)
    }

    #[test]
    fn a_certificate_says_for_whom_and_how_long_it_is() {
        let (der, key) = made();
        let facts = read(&der).unwrap();
        assert_eq!(facts.names, ["box.example", "*.box.example", "192.0.2.7", "2001:db8::7"]);
        assert_eq!((facts.not_before, facts.not_after), (946_598_400, 3_697_228_800));
        assert_eq!(facts.serial, [0, 0x87, 0x65], "as encoded, so that it is no negative number");
        assert_eq!(facts.key, rcgen::PublicKeyData::subject_public_key_info(&key));
        assert_eq!(facts.maker.map(|maker| maker.len()), Some(20));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_certificate_or_none(at in 0usize..600, byte: u8, cut in 0usize..600) {
            let (mut der, _) = made();
            let at = at % der.len();
            der[at] = byte;
            let _ = read(&der);
            der.truncate(cut);
            let _ = read(&der);
        }
    }
}
