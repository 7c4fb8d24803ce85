use std::path::PathBuf;
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::common::{run, tool};

/// Units in a directory, as they would be installed.
struct Units {
    dir: TempDir,
    analyze: PathBuf,
}

impl Units {
    /// Writes what `linehub generate` prints, each under its name.
    fn write(units: &[(&str, &[&str])]) -> Option<Units> {
        let analyze = tool("systemd-analyze")?;
        let dir = tempfile::tempdir().unwrap();
        for (name, args) in units {
            let exit = run(&[&["generate"], *args].concat(), &[]);
            assert_eq!((exit.code, &*exit.stderr), (Some(0), ""), "{args:?}");
            // The tree they are looked at in has no linehub installed.
            let unit = exit
                .stdout
                .replace("/usr/bin/linehub", env!("CARGO_BIN_EXE_linehub"));
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, unit).unwrap();
        }
        Some(Units { dir, analyze })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What `systemd-analyze verify` has to say of a unit, nothing if it is good.
    fn verify(&self, name: &str) -> String {
        let output = self.analyze(&["verify", "--man=no", "--recursive-errors=no"], name);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        // Machines have other units, and what is wrong with those is not ours.
        let ours = |line: &&str| line.contains("linehub") || line.contains("50-");
        said.lines().filter(ours).collect::<Vec<_>>().join("\n")
    }

    /// The overall exposure that `systemd-analyze security` gives a service.
    fn exposure(&self, name: &str) -> f64 {
        let output = self.analyze(&["security", "--offline=true", "--no-pager"], name);
        let table = String::from_utf8_lossy(&output.stdout).into_owned();
        let overall = table
            .lines()
            .find_map(|line| {
                line.split_once("Overall exposure level for ")?
                    .1
                    .split_once(": ")
            })
            .unwrap_or_else(|| panic!("no exposure in {table}{output:?}"));
        let level = overall.1.split(' ').next().unwrap();
        level.parse().unwrap_or_else(|_| panic!("{level}"))
    }

    fn analyze(&self, args: &[&str], name: &str) -> Output {
        Command::new(&self.analyze)
            .args(args)
            .arg(self.path(name))
            // Units that ours refer to are looked for beside it, too.
            .env(
                "SYSTEMD_UNIT_PATH",
                format!("{}:", self.dir.path().display()),
            )
            .env("SYSTEMD_LOG_COLOR", "0")
            .output()
            .unwrap()
    }

    /// The major version of the systemd that looks at them.
    fn version(&self) -> u32 {
        let output = Command::new(&self.analyze).arg("--version").output();
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        let version = text.split_whitespace().nth(1).unwrap();
        let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap()
    }
}

#[test]
fn a_service_with_the_network_verifies_and_is_tight() {
    let Some(units) = Units::write(&[("linehub.service", &["service"])]) else {
        return;
    };
    assert_eq!(units.verify("linehub.service"), "");
    let exposure = units.exposure("linehub.service");
    assert!(exposure <= 1.1, "{exposure}");
}

#[test]
fn a_service_without_a_network_of_its_own_verifies_and_is_tighter() {
    let Some(units) = Units::write(&[
        ("linehub.service", &["service", "--socket-activated"]),
        ("linehub.socket", &["socket"]),
    ]) else {
        return;
    };
    assert_eq!(units.verify("linehub.service"), "");
    assert_eq!(units.verify("linehub.socket"), "");
    let exposure = units.exposure("linehub.service");
    assert!(exposure <= 0.3, "{exposure}");
}

#[test]
fn the_dropin_verifies_where_its_settings_are_known() {
    let Some(units) = Units::write(&[
        ("linehub.service", &["service"]),
        ("linehub.service.d/50-systemd-254.conf", &["dropin"]),
    ]) else {
        return;
    };
    let said = units.verify("linehub.service");
    if units.version() >= 254 {
        assert_eq!(said, "");
    } else {
        assert!(
            said.contains("notify-reload") && said.contains("FileDescriptorStorePreserve"),
            "{said}"
        );
    }
}

#[test]
fn a_unit_with_a_mistake_is_found() {
    let Some(units) = Units::write(&[("linehub.service", &["service"])]) else {
        return;
    };
    let path = units.path("linehub.service");
    let unit = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, unit.replace("WatchdogSec=30", "WatchdogSec=often")).unwrap();
    assert!(
        units.verify("linehub.service").contains("often"),
        "the other tests cannot fail"
    );
    let lax = "[Service]\nExecStart=/bin/true\n";
    std::fs::write(&path, lax).unwrap();
    assert!(units.exposure("linehub.service") > 5.0);
}

#[test]
fn every_command_in_the_service_is_one_that_the_daemon_has() {
    let unit = run(&["generate", "service"], &[]).stdout;
    let start = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="));
    let (program, args) = start.unwrap().split_once(' ').unwrap();
    assert_eq!(program, "/usr/bin/linehub");
    let config = run(&["generate", "config"], &[]).stdout;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("linehub.toml");
    std::fs::write(&file, config).unwrap();
    let args = args.replace("/etc/linehub.toml", file.to_str().unwrap());
    let args: Vec<&str> = args.split(' ').chain(["--check"]).collect();
    let exit = run(&args, &[]);
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
}
