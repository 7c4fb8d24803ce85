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

/// What a service with a certificate and tokens out of systemd's credentials is told.
#[test]
fn credentials_are_lines_that_verify_and_loosen_nothing() {
    let Some(units) = Units::write(&[("linehub.service", &["service"])]) else {
        return;
    };
    let path = units.path("linehub.service");
    let unit = std::fs::read_to_string(&path).unwrap();
    let credentials = [
        "#LoadCredential=hub.pem:",
        "#LoadCredential=hub.key:",
        "#Environment=LINEHUB_TLS_CERT=%d/hub.pem LINEHUB_TLS_KEY=%d/",
        "#LoadCredential=tokens.toml:",
        "#Environment=LINEHUB_TOKENS=%d/",
        "#LoadCredential=nats.creds:",
        "#Environment=LINEHUB_NATS_CREDS=%d/",
    ];
    for line in credentials {
        assert_eq!(unit.matches(line).count(), 1, "{unit}");
    }
    let with = credentials
        .iter()
        .fold(unit, |unit, line| unit.replace(line, &line[1..]));
    std::fs::write(&path, with).unwrap();
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

/// The values of a setting in a unit, in their order. An empty one takes back those before it.
fn settings(unit: &str, name: &str) -> Vec<String> {
    let mut values = Vec::new();
    for line in unit.lines() {
        match line
            .strip_prefix(name)
            .and_then(|rest| rest.strip_prefix('='))
        {
            Some("") => values.clear(),
            Some(value) => values.push(value.to_owned()),
            None => {}
        }
    }
    values
}

fn generated(args: &[&str]) -> String {
    run(&[&["generate"], args].concat(), &[]).stdout
}

#[test]
fn a_reload_checks_what_the_service_started_with_before_it_signals() {
    let service = generated(&["service"]);
    let [start] = &settings(&service, "ExecStart")[..] else {
        panic!("{service}");
    };
    let check = format!("{start} --check");
    let [first, signal] = &settings(&service, "ExecReload")[..] else {
        panic!("{service}");
    };
    assert_eq!((first, signal.contains("HUP")), (&check, true));
    // With the drop-in, systemd itself sends the signal.
    let both = service + &generated(&["dropin"]);
    assert_eq!(settings(&both, "ExecReload"), [check.as_str()]);

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("linehub.toml");
    let check = check.replace("/etc/linehub.toml", file.to_str().unwrap());
    let args: Vec<&str> = check.split(' ').collect();
    assert_eq!(args[0], "/usr/bin/linehub");
    std::fs::write(&file, generated(&["config"])).unwrap();
    let exit = run(&args[1..], &[]);
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    std::fs::write(&file, "max_line = 1\n").unwrap();
    let exit = run(&args[1..], &[]);
    assert_eq!(exit.code, Some(2), "{}", exit.stderr);
    assert!(exit.stderr.contains(":1: max_line"), "{}", exit.stderr);
}

#[test]
fn the_file_says_it_all_and_a_mistake_in_it_is_not_tried_again() {
    for service in [&["service"][..], &["service", "--socket-activated"]] {
        let service = generated(service);
        // It would win over the file, and nobody would see it there.
        assert_eq!(settings(&service, "Environment"), [""; 0]);
        let codes = settings(&service, "RestartPreventExitStatus").join(" ");
        assert!(codes.split(' ').any(|code| code == "2"), "{codes}");
    }
}

#[test]
fn others_can_open_the_sockets_of_the_service() {
    let service = generated(&["service"]);
    // systemd keeps the directories of dynamic users where only root can go.
    assert_eq!(settings(&service, "DynamicUser"), [""; 0]);
    assert_eq!(settings(&service, "RuntimeDirectoryMode"), ["0755"]);
    assert_eq!(settings(&service, "UMask"), ["0111"]);
    // What was kept of the lines is not for everybody on the machine.
    assert_eq!(settings(&service, "StateDirectory"), ["linehub"]);
    assert_eq!(settings(&service, "StateDirectoryMode"), ["0700"]);
    let [user] = &settings(&service, "User")[..] else {
        panic!("{service}");
    };
    let sysusers = generated(&["sysusers"]);
    assert!(sysusers.contains(&format!("\nu {user} ")), "{sysusers}");
}

#[test]
fn the_socket_unit_listens_on_this_machine_only() {
    let addresses = settings(&generated(&["socket"]), "ListenStream");
    let local = |address: &String| address.starts_with('/') || address.starts_with("127.0.0.1:");
    assert!(addresses.iter().all(local), "{addresses:?}");
    assert!(
        addresses.contains(&"127.0.0.1:2345".to_owned()),
        "{addresses:?}"
    );
}
