//! The keys of the log: all its cryptography, and the one file to exchange for another back end. Nothing else in the log
//! names an algorithm: it asks for the key that is next, for the MAC of bytes, for a digest.
//!
//! The key moves on through a one-way step and the old one is erased, so that whoever takes the node learns no key that
//! records of the past were written under (Bellare and Yee, "Forward integrity for secure audit logs", 1997).

use std::fmt;
use std::io;

use hmac::digest::FixedOutput as _;
use hmac::{Hmac, KeyInit, Mac as _};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::hex;

/// Bytes of a key, a MAC and a digest.
pub const LENGTH: usize = 32;

/// HMAC-SHA256 of a record.
pub type Mac = [u8; LENGTH];

/// A secret key. Its bytes are overwritten when it is dropped.
#[derive(Clone)]
pub struct Key(Zeroizing<[u8; LENGTH]>);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Key {
    /// A key from the kernel's generator (getrandom(2)).
    ///
    /// # Errors
    /// The generator is not there or gave too little.
    pub fn generate() -> io::Result<Self> {
        let mut bytes = Zeroizing::new([0; LENGTH]);
        match rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())? {
            LENGTH => Ok(Key(bytes)),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// The key whose bytes these are.
    pub fn from_bytes(bytes: [u8; LENGTH]) -> Self {
        Key(Zeroizing::new(bytes))
    }

    /// Reads 64 hexadecimal digits, with space around them.
    pub fn from_hex(text: &str) -> Option<Self> {
        hex::decode(text.trim()).map(Self::from_bytes)
    }

    /// 64 hexadecimal digits.
    pub fn to_hex(&self) -> Zeroizing<String> {
        Zeroizing::new(hex::encode(&self.0[..]))
    }

    /// The secret itself, for the state file.
    pub(super) fn bytes(&self) -> &[u8; LENGTH] {
        &self.0
    }

    /// The key of the first records of a chain, given the number of its very first and how many are written under each
    /// key. A key thus stands for certain numbers: whoever holds a later one cannot write an earlier record with it.
    #[must_use]
    pub fn begin(&self, since: u64, every: u64) -> Self {
        self.derive(format!("curb audit: from {since} every {every}").as_bytes())
    }

    /// The next key. There is no way back.
    #[must_use]
    pub fn next(&self) -> Self {
        self.derive(b"curb audit: next key")
    }

    /// What tells this chain of keys from others; taken of its first key, and no secret.
    pub fn id(&self) -> String {
        hex::encode(&self.derive(b"curb audit: key id").bytes()[..8])
    }

    /// Authenticates `bytes`.
    pub fn mac(&self, bytes: &[u8]) -> Mac {
        *self.derive(b"curb audit: record").derive(bytes).bytes()
    }

    /// Of a chain's first key: the key of the digests that stand for arguments. It tells nothing of the keys of records,
    /// and only who has it can try whether a digest is of the arguments he guesses.
    #[must_use]
    pub fn for_arguments(&self) -> Self {
        self.derive(b"curb audit: arguments")
    }

    /// The digest that stands for the arguments of a process in a record, under [`Key::for_arguments`]: of each argument
    /// and a NUL after it, as `/proc/<pid>/cmdline` has them.
    pub fn digest_arguments<S: AsRef<str>>(&self, arguments: &[S]) -> String {
        let mut bytes = Zeroizing::new(Vec::new());
        for argument in arguments {
            bytes.extend_from_slice(argument.as_ref().as_bytes());
            bytes.push(0);
        }
        hex::encode(self.derive(&bytes).bytes())
    }

    fn derive(&self, bytes: &[u8]) -> Self {
        #[allow(clippy::expect_used, reason = "HMAC takes a key of any length")]
        let mut hmac = Hmac::<Sha256>::new_from_slice(&self.0[..]).expect("a key of any length");
        hmac.update(bytes);
        // Written to where it is wiped from: a copy on the stack would outlive the key.
        let mut derived = Zeroizing::new([0; LENGTH]);
        hmac.finalize_into((&mut *derived).into());
        Key(derived)
    }
}

/// Whether two MACs are equal, in a time that does not tell where they differ.
pub(super) fn same(one: &Mac, other: &Mac) -> bool {
    one.iter().zip(other).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

/// A digest that nobody can find another text for (SHA-256).
#[derive(Clone, Default)]
pub(super) struct Digest(Sha256);

impl Digest {
    /// Of `bytes`.
    pub fn of(bytes: &[u8]) -> [u8; LENGTH] {
        Sha256::digest(bytes).into()
    }

    /// Takes more.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Of all that was taken, in hexadecimal.
    pub fn finish(self) -> String {
        hex::encode(&self.0.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_told_by_its_digits_and_prints_as_nothing() {
        let key = Key::generate().unwrap();
        let read = Key::from_hex(&format!(" {}\n", *key.to_hex())).unwrap();
        assert_eq!(read.bytes(), key.bytes());
        assert_eq!(format!("{key:?}"), "Key(..)");
        assert!(Key::from_hex("00").is_none() && Key::from_hex(&"zz".repeat(32)).is_none());
    }

    #[test]
    fn the_next_key_and_another_text_give_other_macs() {
        let key = Key::from_bytes([7; 32]);
        assert!(!same(&key.mac(b"a"), &key.mac(b"b")));
        assert!(!same(&key.mac(b"a"), &key.next().mac(b"a")));
        assert!(same(&key.mac(b"a"), &Key::from_bytes([7; 32]).mac(b"a")));
        assert_ne!(key.id(), key.next().id());
    }

    /// The derivation is a promise to every verifier and to every archive: these were computed with Python's `hmac`.
    #[test]
    fn the_derivation_stays_as_it_is() {
        let key = Key::from_bytes([7; 32]);
        assert_eq!(key.id(), "cd570fc48de98931");
        assert_eq!(*key.begin(10, 1).to_hex(), "8ab4d08e6aa1ec13519b4f6e64ed17d6d12a9f8625e04a577cfde48e74cd0627");
        assert_eq!(*key.next().to_hex(), "93e165d89ab7df81d84a1ad3dc85546d0b0b81f14ba4a2c6bf156e72e3e7077d");
        assert_eq!(hex::encode(&key.mac(b"line")), "5b98a84039693b352e5cf14350bdca82b81a2a5a552a582fb971a72ca8596dfc");
        assert_eq!(
            key.for_arguments().digest_arguments(&["/bin/sh", "-c", "id"]),
            "7532ad499923a155f5783ca19082625544d8f83aef9a0d863b15c8695a4166de"
        );
    }

    #[test]
    fn the_back_end_is_hmac_sha256() {
        // RFC 4231, test case 2, through the private step.
        let mut hmac = Hmac::<Sha256>::new_from_slice(b"Jefe").unwrap();
        hmac.update(b"what do ya want for nothing?");
        assert_eq!(
            hex::encode(&hmac.finalize().into_bytes()),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }
}
