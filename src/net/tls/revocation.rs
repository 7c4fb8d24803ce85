//! Certificates that their authority has revoked (RFC 5280 section 5), and what is said in a certificate.

use std::time::SystemTime;

use anyhow::{Context, ensure};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::pem;

/// Lists of revoked certificates, each in DER.
#[derive(Debug)]
pub(crate) struct RevocationLists(Vec<Vec<u8>>);

impl RevocationLists {
    /// Reads a PEM file of lists, one for each authority.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(pem: &[u8]) -> anyhow::Result<RevocationLists> {
        let mut lists = Vec::new();
        for pem in pem::blocks(pem, "X509 CRL", "CRLs")? {
            CertificateRevocationList::from_der(&pem.contents).context("its list is damaged")?;
            lists.push(pem.contents);
        }
        ensure!(!lists.is_empty(), "it has no list");
        Ok(RevocationLists(lists))
    }

    /// Checks a chain that is signed as it should be, each in DER, from a client's own certificate to that of
    /// an authority that is trusted.
    ///
    /// # Errors
    /// Why it is not to be trusted: one is revoked, or there is no list of its authority that is of today.
    pub(super) fn check(&self, chain: &[Vec<u8>]) -> Result<(), String> {
        let chain = parse(chain)?;
        for pair in chain.windows(2) {
            let [certificate, issuer] = pair else {
                continue;
            };
            let list = self.list_of(issuer)?;
            if list
                .next_update()
                .is_some_and(|next| next.timestamp() < now())
            {
                return Err(format!("the CRL of {} is out of date", issuer.subject()));
            }
            if has(&list, certificate) {
                return Err(format!("{} is revoked", certificate.subject()));
            }
        }
        Ok(())
    }

    /// Whether a certificate of such a chain is in a list, of today or not.
    pub(crate) fn revoke(&self, chain: &[Vec<u8>]) -> bool {
        let chain = parse(chain).unwrap_or_default();
        chain.windows(2).any(|pair| {
            let [certificate, issuer] = pair else {
                return false;
            };
            self.list_of(issuer)
                .is_ok_and(|list| has(&list, certificate))
        })
    }

    /// The list that this authority has signed.
    fn list_of(
        &self,
        issuer: &X509Certificate<'_>,
    ) -> Result<CertificateRevocationList<'_>, String> {
        let lists = self.0.iter().filter_map(|der| {
            let (_, list) = CertificateRevocationList::from_der(der).ok()?;
            Some(list)
        });
        let mut its = lists.filter(|list| {
            list.issuer() == issuer.subject() && list.verify_signature(issuer.public_key()).is_ok()
        });
        its.next()
            .ok_or_else(|| format!("there is no CRL of {}", issuer.subject()))
    }
}

/// Certificates in DER.
fn parse(chain: &[Vec<u8>]) -> Result<Vec<X509Certificate<'_>>, String> {
    let parsed = chain.iter().map(|der| X509Certificate::from_der(der));
    parsed
        .map(|parsed| parsed.map(|(_, certificate)| certificate))
        .collect::<Result<_, _>>()
        .map_err(|error| format!("a certificate is damaged: {error}"))
}

/// Whether a list has this certificate.
fn has(list: &CertificateRevocationList<'_>, certificate: &X509Certificate<'_>) -> bool {
    let mut revoked = list.iter_revoked_certificates();
    revoked.any(|revoked| revoked.raw_serial() == certificate.raw_serial())
}

/// Seconds since the epoch.
fn now() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs() as i64)
}

/// Names in a certificate: its common names, and its alternative ones for hosts, mail and URIs.
pub(crate) fn names(der: &[u8]) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        return Vec::new();
    };
    let common = certificate.subject().iter_common_name();
    let mut names: Vec<String> = common
        .filter_map(|name| name.as_str().ok().map(str::to_owned))
        .collect();
    if let Ok(Some(alternative)) = certificate.subject_alternative_name() {
        names.extend(alternative.value.general_names.iter().filter_map(|name| {
            let (GeneralName::DNSName(name)
            | GeneralName::RFC822Name(name)
            | GeneralName::URI(name)) = name
            else {
                return None;
            };
            Some((*name).to_owned())
        }));
    }
    names
}
