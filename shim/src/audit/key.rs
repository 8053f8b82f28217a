//! The keys of the log: all its cryptography, and the one file to exchange for another back end.
//!
//! The key moves on through a one-way step and the old one is erased, so that whoever takes the node learns no key that
//! records of the past were written under (Bellare and Yee, "Forward integrity for secure audit logs", 1997).

use std::fmt;
use std::io;

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

    /// The next key. There is no way back.
    #[must_use]
    pub fn next(&self) -> Self {
        Self::from_bytes(self.derive(b"curb audit: next key"))
    }

    /// What tells this chain of keys from others; taken of its first key, and no secret.
    pub fn id(&self) -> String {
        hex::encode(&self.derive(b"curb audit: key id")[..8])
    }

    /// Authenticates `bytes`.
    pub fn mac(&self, bytes: &[u8]) -> Mac {
        Self::from_bytes(self.derive(b"curb audit: record")).derive(bytes)
    }

    fn derive(&self, bytes: &[u8]) -> [u8; LENGTH] {
        #[allow(clippy::expect_used, reason = "HMAC takes a key of any length")]
        let mut hmac = Hmac::<Sha256>::new_from_slice(&self.0[..]).expect("a key of any length");
        hmac.update(bytes);
        hmac.finalize().into_bytes().into()
    }
}

/// Whether two MACs are equal, in a time that does not tell where they differ.
pub(super) fn same(one: &Mac, other: &Mac) -> bool {
    one.iter().zip(other).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

/// SHA-256.
pub(super) fn digest(bytes: &[u8]) -> [u8; LENGTH] {
    Sha256::digest(bytes).into()
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

    /// The derivation is a promise to every verifier: these were computed once with another implementation of HMAC.
    #[test]
    fn the_derivation_is_hmac_sha256() {
        // RFC 4231, test case 2, through the private step.
        let mut hmac = Hmac::<Sha256>::new_from_slice(b"Jefe").unwrap();
        hmac.update(b"what do ya want for nothing?");
        assert_eq!(
            hex::encode(&hmac.finalize().into_bytes()),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }
}
