//! Encryption of whole backups, as age files, so that the `age` tool opens them too.

use std::{
    fmt,
    io::{self, BufReader, Read, Write},
    str::FromStr as _,
};

use age::{
    DecryptError, Decryptor, Encryptor,
    stream::StreamWriter,
    x25519::{Identity, Recipient},
};

use crate::format::FormatError;

/// What an age file begins with.
const AGE: &[u8; 8] = b"age-encr";
/// Most recipients of one backup.
const RECIPIENTS_MAX: usize = 32;

/// Why a key cannot be used. Never holds the key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyError {
    /// It is not a public key.
    #[error("`{0}` is no age recipient; it has to begin with age1, as age-keygen -y tells it")]
    Recipient(String),
    /// There are too many.
    #[error("a backup can have at most {RECIPIENTS_MAX} recipients")]
    TooMany,
    /// There is no secret key in it.
    #[error("there is no age identity in it; it has a line that begins with AGE-SECRET-KEY-1")]
    Identity,
}

/// Whom a backup is for.
#[derive(Clone)]
pub struct Recipients(Vec<Recipient>);

impl Recipients {
    /// Reads public keys, `age1…`. None gives `None`: nothing is encrypted.
    ///
    /// # Errors
    /// [`KeyError`] names the one that is none.
    pub fn parse<T: AsRef<str>>(keys: &[T]) -> Result<Option<Self>, KeyError> {
        if keys.len() > RECIPIENTS_MAX {
            return Err(KeyError::TooMany);
        }
        let read = |key: &T| {
            let key = key.as_ref();
            let refused = || {
                // A secret key that was typed in the wrong place is not repeated.
                let told = if key.starts_with("age1") { key } else { "this" };
                KeyError::Recipient(told.chars().take(80).collect())
            };
            Recipient::from_str(key).map_err(|_| refused())
        };
        let keys: Vec<Recipient> = keys.iter().map(read).collect::<Result<_, _>>()?;
        Ok((!keys.is_empty()).then_some(Self(keys)))
    }
}

impl fmt::Debug for Recipients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(ToString::to_string)).finish()
    }
}

/// Keys that open backups.
pub struct Identities(Vec<Identity>);

impl Identities {
    /// Reads what `age-keygen` writes: a secret key a line, and comments.
    ///
    /// # Errors
    /// [`KeyError::Identity`] if there is no key, or a line is none.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let lines = text.lines().map(str::trim);
        let keys: Vec<Identity> = lines
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| Identity::from_str(line).map_err(|_| KeyError::Identity))
            .collect::<Result<_, _>>()?;
        if keys.is_empty() { Err(KeyError::Identity) } else { Ok(Self(keys)) }
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identities({})", self.0.len())
    }
}

/// What is written goes on encrypted, or as it is.
pub(crate) enum Seal<W: Write> {
    Plain(W),
    Age(Box<StreamWriter<W>>),
}

impl<W: Write> Seal<W> {
    pub(crate) fn new(output: W, recipients: Option<&Recipients>) -> io::Result<Self> {
        let Some(Recipients(keys)) = recipients else { return Ok(Self::Plain(output)) };
        let keys = keys.iter().map(|key| key as &dyn age::Recipient);
        let encryptor = Encryptor::with_recipients(keys)
            .map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Self::Age(Box::new(encryptor.wrap_output(output)?)))
    }

    /// Writes the end.
    pub(crate) fn finish(self) -> io::Result<W> {
        match self {
            Self::Plain(output) => Ok(output),
            Self::Age(writer) => writer.finish(),
        }
    }
}

impl<W: Write> Write for Seal<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(output) => output.write(data),
            Self::Age(writer) => writer.write(data),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(output) => output.flush(),
            Self::Age(writer) => writer.flush(),
        }
    }
}

/// The stream of a backup that may be encrypted.
///
/// # Errors
/// [`FormatError::Encrypted`] or [`FormatError::WrongIdentity`] if it cannot be opened.
pub fn open<'a>(
    mut input: impl Read + 'a,
    identities: Option<&Identities>,
) -> Result<Box<dyn Read + 'a>, FormatError> {
    let mut first = [0; AGE.len()];
    let mut filled = 0;
    while filled < first.len() {
        match input.read(&mut first[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    let whole = BufReader::new(io::Cursor::new(first).take(filled as u64).chain(input));
    if first != *AGE {
        return Ok(Box::new(whole));
    }
    let Identities(keys) = identities.ok_or(FormatError::Encrypted)?;
    let keys = keys.iter().map(|key| key as &dyn age::Identity);
    let opened = Decryptor::new_buffered(whole).and_then(|decryptor| decryptor.decrypt(keys));
    Ok(Box::new(BufReader::new(opened.map_err(refused)?)))
}

fn refused(error: DecryptError) -> FormatError {
    match error {
        DecryptError::Io(error) => error.into(),
        DecryptError::NoMatchingKeys => FormatError::WrongIdentity,
        _ => FormatError::Damaged("its encryption's header cannot be read"),
    }
}

#[cfg(test)]
mod tests {
    use age::secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn keys_are_read_and_what_is_none_is_refused_without_being_told() {
        let identity = Identity::generate();
        let (public, secret) = (identity.to_public().to_string(), identity.to_string());
        let secret = secret.expose_secret();
        assert!(Recipients::parse(&[&public]).unwrap().is_some());
        assert!(Recipients::parse::<&str>(&[]).unwrap().is_none());
        Identities::parse(&format!("# created: today\n# public key: {public}\n{secret}\n"))
            .unwrap();

        let error = Recipients::parse(&[secret]).unwrap_err();
        assert!(!error.to_string().contains(secret), "{error}");
        for text in ["", "# nothing\n", "age1nothing", &public, &secret[..40]] {
            assert_eq!(Identities::parse(text).unwrap_err(), KeyError::Identity);
        }
        assert_eq!(Recipients::parse(&vec![public; 33]).unwrap_err(), KeyError::TooMany);
    }
}
