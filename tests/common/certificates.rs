//! Certificates for TLS: an authority of a test, and what it signs, as PEM files.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, RevocationReason,
    RevokedCertParams, SerialNumber, date_time_ymd,
};
use tempfile::TempDir;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// An authority that signs certificates. Its files are there as long as it is.
pub(crate) struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
    /// Path of its own certificate, which who is to trust it reads.
    pub(crate) certificate: String,
}

/// A certificate and its key, ECDSA on P-256.
#[derive(Clone, PartialEq)]
pub(crate) struct Pair {
    /// Path of the certificate.
    pub(crate) certificate: String,
    /// Path of its key, which only the owner may read.
    pub(crate) key: String,
    serial: u64,
}

impl Authority {
    pub(crate) fn new() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, "test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let folder = tempfile::tempdir().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let certificate = write(folder.path(), "authority.pem", &pem);
        Authority {
            folder,
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    /// Of a server at `localhost`, 127.0.0.1 and ::1.
    pub(crate) fn server(&self) -> Pair {
        self.issue("localhost", &["localhost", "127.0.0.1", "::1"], 365)
    }

    /// Of a server that nobody can be connected to in a test.
    #[cfg(feature = "connect")]
    pub(crate) fn misnamed(&self) -> Pair {
        self.issue("other.example", &["other.example"], 365)
    }

    /// Of a server on this machine, until yesterday.
    pub(crate) fn expired(&self) -> Pair {
        self.issue("localhost", &["localhost", "127.0.0.1", "::1"], -1)
    }

    /// Of a client, by its common name.
    pub(crate) fn client(&self, name: &str) -> Pair {
        self.issue(name, &[], 365)
    }

    /// A certificate that ends in so many days, of a client and a server alike.
    pub(crate) fn issue(&self, name: &str, alternatives: &[&str], days: i64) -> Pair {
        static SERIALS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        let serial = SERIALS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let alternatives: Vec<String> = alternatives.iter().map(|name| name.to_string()).collect();
        let mut params = CertificateParams::new(alternatives).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(serial));
        let epoch = date_time_ymd(1970, 1, 1);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let end = now.unwrap().as_secs().checked_add_signed(days * 86_400);
        params.not_after = epoch + Duration::from_secs(end.unwrap());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().unwrap();
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        let folder = self.folder.path();
        Pair {
            certificate: write(folder, &format!("{serial}.pem"), &pem),
            key: write(folder, &format!("{serial}.key"), &key.serialize_pem()),
            serial,
        }
    }

    /// Path of a list of what it has revoked, which it says is so.
    pub(crate) fn revoke(&self, revoked: &[&Pair]) -> String {
        self.list(revoked, 2 * DAY)
    }

    /// Path of a list whose successor should be there by now.
    pub(crate) fn outdated_list(&self) -> String {
        self.list(&[], DAY / 2)
    }

    /// A list of yesterday that holds for so long.
    fn list(&self, revoked: &[&Pair], time: Duration) -> String {
        let epoch = date_time_ymd(1970, 1, 1);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = epoch + Duration::from_secs(now.unwrap().as_secs());
        let revoked_certs = revoked.iter().map(|pair| RevokedCertParams {
            serial_number: SerialNumber::from(pair.serial),
            revocation_time: now - DAY,
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: now - DAY,
            next_update: now - DAY + time,
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        let pem = list.signed_by(&self.issuer).unwrap().pem().unwrap();
        write(self.folder.path(), "revoked.pem", &pem)
    }
}

fn write(folder: &Path, name: &str, pem: &str) -> String {
    use std::os::unix::fs::PermissionsExt as _;
    let path = folder.join(name);
    fs::write(&path, pem).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path.to_str().unwrap().to_owned()
}
