//! Logging in: SASL/PLAIN and SASL/SCRAM (RFC 5802).
//!
//! Responsible for proving to the broker that we know the password, and with SCRAM for having the broker prove the same.
//! Must never let a password into an error or a log line.

use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use crashmonitor_core::config::{Authentication, Mechanism};
use ring::rand::SecureRandom as _;
use ring::{digest, hmac, pbkdf2, rand};

use super::connection::{Connection, Error};
use crate::secret;

/// What a broker may ask for: fewer iterations are unsafe, more would keep us busy for seconds.
const ITERATIONS: std::ops::RangeInclusive<u32> = 4_096..=1_000_000;
/// The header of a client without channel binding, and its encoding.
const BINDING: (&str, &str) = ("n,,", "biws");

/// Logs in and returns for how long that holds, in milliseconds; 0 for ever.
pub fn log_in(connection: &mut Connection, authentication: &Authentication) -> Result<i64, Error> {
    let Authentication { mechanism, username, password } = authentication;
    let password = secret::read("kafka.authentication", password).map_err(|e| Error::Local(e.to_string()))?;
    let scram = match mechanism {
        Mechanism::Plain => {
            connection.handshake("PLAIN")?;
            let token = format!("\0{username}\0{password}");
            return Ok(connection.authenticate(token.into_bytes())?.1);
        }
        Mechanism::ScramSha256 => {
            connection.handshake("SCRAM-SHA-256")?;
            Scram { hmac: hmac::HMAC_SHA256, digest: &digest::SHA256, pbkdf2: pbkdf2::PBKDF2_HMAC_SHA256 }
        }
        Mechanism::ScramSha512 => {
            connection.handshake("SCRAM-SHA-512")?;
            Scram { hmac: hmac::HMAC_SHA512, digest: &digest::SHA512, pbkdf2: pbkdf2::PBKDF2_HMAC_SHA512 }
        }
    };
    let nonce = nonce()?;
    let first = first_message(username, &nonce);
    let (server_first, _) = connection.authenticate(format!("{}{first}", BINDING.0).into_bytes())?;
    let exchange = scram.answer(&password, &nonce, &first, &text(&server_first)?)?;
    let (server_last, lifetime_ms) = connection.authenticate(exchange.last.into_bytes())?;
    let proof = format!("v={}", BASE64.encode(&exchange.server_signature));
    if proof.as_bytes() != server_last {
        return Err(refused("the broker does not know the password"));
    }
    Ok(lifetime_ms)
}

fn nonce() -> Result<String, Error> {
    let mut bytes = [0; 18];
    rand::SystemRandom::new().fill(&mut bytes).map_err(|_| Error::Local("no randomness".to_owned()))?;
    Ok(BASE64.encode(bytes))
}

/// The client's first message without the header.
fn first_message(username: &str, nonce: &str) -> String {
    format!("n={},r={nonce}", username.replace('=', "=3D").replace(',', "=2C"))
}

struct Scram {
    hmac: hmac::Algorithm,
    digest: &'static digest::Algorithm,
    pbkdf2: pbkdf2::Algorithm,
}

/// What the client says last, and what the broker must then say.
struct Exchange {
    last: String,
    server_signature: Vec<u8>,
}

impl Scram {
    fn answer(
        &self,
        password: &str,
        nonce: &str,
        first: &str,
        server_first: &str,
    ) -> Result<Exchange, Error> {
        let field = |name: &str| server_first.split(',').find_map(|field| field.strip_prefix(name));
        let (Some(whole_nonce), Some(salt), Some(iterations)) = (field("r="), field("s="), field("i="))
        else {
            return Err(refused("the broker's first message lacks a field"));
        };
        if !whole_nonce.starts_with(nonce) || whole_nonce.len() == nonce.len() {
            return Err(refused("the broker answered somebody else"));
        }
        let salt = BASE64.decode(salt).map_err(|_| refused("the broker's salt is no base64"))?;
        let iterations = iterations.parse().ok().filter(|count| ITERATIONS.contains(count));
        let iterations = iterations.and_then(NonZeroU32::new);
        let iterations = iterations.ok_or_else(|| refused("the broker's iterations are out of range"))?;

        let mut salted = vec![0; self.digest.output_len()];
        pbkdf2::derive(self.pbkdf2, iterations, &salt, password.as_bytes(), &mut salted);
        let key = |secret: &[u8], text: &str| hmac::sign(&hmac::Key::new(self.hmac, secret), text.as_bytes());
        let client_key = key(&salted, "Client Key");
        let stored_key = digest::digest(self.digest, client_key.as_ref());
        let without_proof = format!("c={},r={whole_nonce}", BINDING.1);
        let signed = format!("{first},{server_first},{without_proof}");
        let signature = key(stored_key.as_ref(), &signed);
        let proof: Vec<u8> = client_key.as_ref().iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
        let server_key = key(&salted, "Server Key");
        Ok(Exchange {
            last: format!("{without_proof},p={}", BASE64.encode(proof)),
            server_signature: key(server_key.as_ref(), &signed).as_ref().to_vec(),
        })
    }
}

fn text(bytes: &[u8]) -> Result<String, Error> {
    String::from_utf8(bytes.to_vec()).map_err(|_| refused("the broker's message is no text"))
}

fn refused(error: &str) -> Error {
    Error::Refused { what: "SASL authentication", error: error.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677.
    #[test]
    fn scram_answers_as_the_standard_says() {
        let scram =
            Scram { hmac: hmac::HMAC_SHA256, digest: &digest::SHA256, pbkdf2: pbkdf2::PBKDF2_HMAC_SHA256 };
        let nonce = "rOprNGfwEbeRWgbNEkqO";
        let server_first =
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let exchange = scram.answer("pencil", nonce, &first_message("user", nonce), server_first).unwrap();
        assert_eq!(
            exchange.last,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        assert_eq!(BASE64.encode(exchange.server_signature), "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    #[test]
    fn a_broker_that_cheats_is_refused() {
        let scram =
            Scram { hmac: hmac::HMAC_SHA256, digest: &digest::SHA256, pbkdf2: pbkdf2::PBKDF2_HMAC_SHA256 };
        for server_first in [
            "r=other,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "r=mine,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "r=mine+,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=1",
            "r=mine+,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4000000000",
            "r=mine+,s=!,i=4096",
            "r=mine+",
            "",
        ] {
            assert!(scram.answer("pencil", "mine", "n=user,r=mine", server_first).is_err(), "{server_first}");
        }
    }

    #[test]
    fn a_user_with_separators_in_the_name_is_escaped() {
        assert_eq!(first_message("a=b,c", "x"), "n=a=3Db=2Cc,r=x");
    }
}
