//! Certificates for the TLS tests, made anew by openssl at each start.
//!
//! Responsible for one authority and one server certificate for one address of this host and localhost. Must never reuse or keep a
//! key: the files go with their directory.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The leaf must not be an authority: rustls refuses an authority as a server.
const CONFIG: &str = "
[req]
distinguished_name = name
prompt = no
[name]
CN = crashmonitor test
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = IP:HOST, DNS:localhost
[server_authority]
basicConstraints = critical, CA:TRUE
extendedKeyUsage = serverAuth
subjectAltName = IP:HOST, DNS:localhost
";

/// What the server's certificate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerCertificate {
    /// A server's, as it should be.
    Leaf,
    /// One that may vouch for others too.
    Authority,
}

/// PEM files of an authority and of a server that it vouches for.
#[derive(Debug, Clone)]
pub struct Certificates {
    /// What clients trust.
    pub authority: PathBuf,
    /// The server's certificate.
    pub certificate: PathBuf,
    /// The server's private key (PKCS #8).
    pub key: PathBuf,
    /// Key and certificate in one file, as Kafka wants its key store.
    pub key_store: PathBuf,
}

impl Certificates {
    /// Makes them in `dir`, for a server at `host`.
    pub fn make(dir: &Path, host: Ipv4Addr) -> Certificates {
        Certificates::make_for(dir, host, ServerCertificate::Leaf)
    }

    /// Makes them in `dir`, with another kind of server.
    pub fn make_for(dir: &Path, host: Ipv4Addr, server: ServerCertificate) -> Certificates {
        let file = |name: &str| dir.join(name);
        let config = file("openssl.cnf");
        let text = CONFIG.replace("HOST", &host.to_string());
        fs::write(&config, text).unwrap_or_else(|e| panic!("writing {}: {e}", config.display()));
        let (ca, ca_key) = (file("ca.pem"), file("ca.key"));
        let (certificate, key) = (file("server.pem"), file("server.key"));
        request(&config, "authority", &ca, &ca_key, None);
        let extensions = match server {
            ServerCertificate::Leaf => "server",
            ServerCertificate::Authority => "server_authority",
        };
        request(&config, extensions, &certificate, &key, Some((&ca, &ca_key)));

        let read = |path: &Path| fs::read(path).unwrap_or_else(|e| panic!("reading {}: {e}", path.display()));
        let key_store = file("server-key-store.pem");
        fs::write(&key_store, [read(&key), read(&certificate)].concat())
            .unwrap_or_else(|e| panic!("writing {}: {e}", key_store.display()));
        Certificates { authority: ca, certificate, key, key_store }
    }
}

fn request(config: &Path, extensions: &str, out: &Path, key: &Path, issuer: Option<(&Path, &Path)>) {
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-nodes", "-days", "2", "-newkey", "ec", "-pkeyopt"]);
    openssl.args(["ec_paramgen_curve:P-256", "-extensions", extensions, "-config"]).arg(config);
    openssl.args(["-subj", &format!("/CN=crashmonitor test {extensions}")]);
    openssl.arg("-keyout").arg(key).arg("-out").arg(out);
    if let Some((ca, ca_key)) = issuer {
        openssl.arg("-CA").arg(ca).arg("-CAkey").arg(ca_key);
    }
    let done = openssl.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("starting openssl: {e}"));
    assert!(done.status.success(), "openssl req failed: {}", String::from_utf8_lossy(&done.stderr));
}
