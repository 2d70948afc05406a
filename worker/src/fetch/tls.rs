//! TLS towards brokers.
//!
//! Responsible for trusting whom the configuration names and nobody else, and for checking the broker's name. Must never
//! log or keep a key.

use std::fs;
use std::io;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use crashmonitor_core::config::KafkaTls;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::connection::Error;
use super::settings::Unsupported;

/// Encrypts `stream`, which leads to `address`.
///
/// What rustls refuses (a certificate without a subject alternative name, an old cipher) librdkafka's OpenSSL may
/// accept, so that is [`Unsupported`] and not an error: librdkafka then has the last word.
pub fn shake_hands(
    address: &str,
    config: &KafkaTls,
    mut stream: TcpStream,
) -> Result<StreamOwned<ClientConnection, TcpStream>, Error> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(host).map_err(unsupported)?;
    let mut session = ClientConnection::new(Arc::new(client(config)?), name).map_err(unsupported)?;
    while session.is_handshaking() {
        session.complete_io(&mut stream).map_err(|error| {
            let refused = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).cloned();
            refused.map_or(Error::Io(error), unsupported)
        })?;
    }
    Ok(StreamOwned::new(session, stream))
}

fn client(config: &KafkaTls) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().map_err(unsupported)?;
    let builder = builder.with_root_certificates(authorities(config)?);
    let Some(client) = &config.client else { return Ok(builder.with_no_client_auth()) };
    let key = PrivateKeyDer::from_pem_slice(&read(&client.key_file)?).map_err(unsupported)?;
    builder.with_client_auth_cert(certificates(&client.certificate_file)?, key).map_err(unsupported)
}

fn authorities(config: &KafkaTls) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    if config.ca_files.is_empty() {
        let native = rustls_native_certs::load_native_certs();
        store.add_parsable_certificates(native.certs);
    }
    for file in &config.ca_files {
        for certificate in certificates(file)? {
            store.add(certificate).map_err(unsupported)?;
        }
    }
    if store.is_empty() { Err(unsupported("no authority to trust was found")) } else { Ok(store) }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let certificates = CertificateDer::pem_slice_iter(&read(file)?).collect::<Result<Vec<_>, _>>();
    certificates.map_err(|error| unsupported(format!("{}: {error}", file.display())))
}

fn read(file: &Path) -> Result<Vec<u8>, Error> {
    fs::read(file).map_err(|error: io::Error| Error::Local(format!("{}: {error}", file.display())))
}

fn unsupported(error: impl std::fmt::Display) -> Error {
    Unsupported(format!("TLS: {error}")).into()
}
