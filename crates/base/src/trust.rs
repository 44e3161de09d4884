//! Whose word this host takes for who a server is.

use std::{io, path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject as _},
};

/// TLS for whoever connects to others: those are trusted whom this host trusts, and `more`.
///
/// # Errors
/// Of `more` there is none that can be used, though some were given.
pub fn tls(more: Vec<CertificateDer<'static>>) -> io::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    // Those of this host that cannot be read are of use to others; without any, connections say so.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if !more.is_empty() && roots.add_parsable_certificates(more).0 == 0 {
        return Err(io::Error::other("none of the certificates can be used"));
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// The certificates in a file, in PEM.
///
/// # Errors
/// It cannot be read, or has none.
pub fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let pem = fs_err::read(path)?;
    let found: Vec<_> = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect();
    if found.is_empty() {
        let path = path.display();
        return Err(io::Error::other(format!("{path} holds no certificate in PEM")));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_certificate_is_refused_and_so_is_one_of_no_use() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        std::fs::write(&path, "nothing").unwrap();
        let error = certificates(&path).unwrap_err().to_string();
        assert!(error.contains("ca.pem holds no certificate"), "{error}");
        // In the right form, and nothing in it.
        std::fs::write(&path, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
            .unwrap();
        let found = certificates(&path).unwrap();
        assert_eq!(found.len(), 1);
        assert!(tls(found).unwrap_err().to_string().contains("can be used"));
        assert!(tls(Vec::new()).is_ok());
    }
}
