use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// What the scripts of the package call. Here, each only notes that it was called.
const TOOLS: [&str; 6] = [
    "deb-systemd-helper",
    "deb-systemd-invoke",
    "rm",
    "systemctl",
    "systemd-sysusers",
    "userdel",
];

/// A machine that the package is installed on.
struct Machine {
    dir: TempDir,
}

impl Machine {
    fn new() -> Machine {
        let dir = tempfile::tempdir().unwrap();
        for tool in TOOLS {
            let path = dir.path().join(tool);
            std::fs::write(
                &path,
                "#!/bin/sh\necho \"${0##*/} $*\" >>\"${0%/*}/calls\"\n",
            )
            .unwrap();
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        Machine { dir }
    }

    /// Runs a script as dpkg does and returns what it called. What is done only where systemd runs, as
    /// it may or may not here, is left out.
    fn run(&self, script: &str, args: &[&str]) -> Vec<String> {
        let calls = self.dir.path().join("calls");
        std::fs::write(&calls, "").unwrap();
        let output = Command::new("/bin/sh")
            .arg(source(".ci/debian").join(script))
            .args(args)
            .env("PATH", self.dir.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{script} {args:?}: {output:?}");
        assert_eq!((&*output.stdout, &*output.stderr), (&b""[..], &b""[..]));
        let calls = std::fs::read_to_string(calls).unwrap();
        let running =
            |call: &&str| call.starts_with("systemctl ") || call.starts_with("deb-systemd-invoke ");
        calls
            .lines()
            .filter(|call| !running(call))
            .map(str::to_owned)
            .collect()
    }
}

fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn text(path: &str) -> String {
    std::fs::read_to_string(source(path)).unwrap()
}

#[test]
fn its_scripts_do_what_they_have_to_where_systemd_does_not_run() {
    let machine = Machine::new();
    let installed = [
        "systemd-sysusers linehub.conf",
        "deb-systemd-helper --quiet was-enabled linehub.service",
        "deb-systemd-helper enable linehub.service",
        "deb-systemd-helper update-state linehub.service linehub.socket",
    ];
    assert_eq!(machine.run("postinst", &["configure", ""]), installed);
    assert_eq!(
        machine.run("postinst", &["configure", "0.0.9-1"]),
        installed
    );
    let nothing: [&str; 0] = [];
    for args in [&["upgrade", "0.2.0-1"][..], &["remove"]] {
        assert_eq!(machine.run("prerm", args), nothing, "{args:?}");
        assert_eq!(machine.run("postrm", args), nothing, "{args:?}");
    }
    let purged = [
        "deb-systemd-helper purge linehub.service linehub.socket",
        "rm -rf /var/lib/linehub",
        "userdel linehub",
    ];
    assert_eq!(machine.run("postrm", &["purge"]), purged);
}

#[test]
fn its_changelog_is_about_this_version() {
    let version = concat!("linehub (", env!("CARGO_PKG_VERSION"), "-1) ");
    let changelog = text(".ci/debian/changelog");
    assert!(changelog.starts_with(version), "{changelog}");
}

#[test]
fn everything_that_goes_into_it_is_made() {
    let manifest = text("Cargo.toml");
    let script = text(".ci/package");
    let made: Vec<&str> = manifest
        .lines()
        .filter_map(|line| {
            line.trim()
                .strip_prefix("[\"target/package/")?
                .split('"')
                .next()
        })
        .collect();
    assert!(made.contains(&"linehub.service"), "{made:?}");
    for name in made {
        assert!(
            script.contains(&format!(">\"$package/{name}\"\n")),
            "{name}"
        );
    }
    // Its synopsis: one line of at most 79 characters, or it is cut.
    assert!(env!("CARGO_PKG_DESCRIPTION").chars().count() < 80);
}
