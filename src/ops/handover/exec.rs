//! Exec in place: the same process goes on as the program that is now at the path it was started
//! from.

use std::convert::Infallible;
use std::env;
use std::ffi::{CStr, CString, OsStr, OsString, c_char};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::time::timeout;

use super::{VERSION, header, set_inheritable};
use crate::config::cli::STATE_VARIABLE;
use crate::ops::systemd::{LISTEN_VARS, SERVICE_VARS};

/// How long the preflight of the new program may take.
const PREFLIGHT_TIME: Duration = Duration::from_secs(5);

/// Bytes that are read of the new program's output: enough for its answer, or its error.
const OUTPUT_BYTES_MAX: u64 = 4096;

/// The option that asks the new program for the preflight.
const PREFLIGHT_OPTION: &str = "--check-handover";

/// The program that this process was started as: its path and its arguments.
#[derive(Clone, Debug)]
pub(crate) struct Executable {
    path: PathBuf,
    /// Arguments, the name that the program was called by first.
    args: Vec<OsString>,
}

impl Executable {
    /// The program of this process. To be called at the start: by the time of a handover another
    /// file may be at its path.
    ///
    /// Symbolic links in the path are kept, so that a link which is moved to another version later
    /// means that version. Where /proc is hidden, the path is the one that the kernel was given, and
    /// only the preflight shows whether it leads to linehub.
    ///
    /// # Errors
    /// The system does not say what this process runs.
    pub(crate) fn current() -> io::Result<Executable> {
        let args: Vec<OsString> = env::args_os().collect();
        let path = Executable::path_of_running(&args).or_else(|error| {
            let started = started_from().filter(|path| path.is_file());
            started.ok_or(error)
        })?;
        Ok(Executable { path, args })
    }

    fn path_of_running(args: &[OsString]) -> io::Result<PathBuf> {
        let running = Path::new("/proc/self/exe");
        let identity = identify(running)?;
        let is_running = |path: &PathBuf| identify(path).is_ok_and(|found| found == identity);
        candidates(args.first().map_or(OsStr::new(""), |name| name))
            .into_iter()
            .find(is_running)
            .map_or_else(|| fs::read_link(running).map(without_mark), Ok)
    }

    /// Path that the program was started from.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Runs the program that is now at the path as a child, to see that it starts, accepts the
    /// configuration and reads the states that this daemon writes. Cancel safe: the child is killed.
    ///
    /// # Errors
    /// The program does not; the error says what it did instead.
    pub(crate) async fn preflight(&self) -> anyhow::Result<()> {
        let mut command = Command::new(&self.path);
        command
            .args(self.args.get(1..).unwrap_or_default())
            .arg(format!("{PREFLIGHT_OPTION}={VERSION}"))
            .env_remove(STATE_VARIABLE)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        for variable in LISTEN_VARS.iter().chain(&SERVICE_VARS) {
            command.env_remove(variable);
        }
        let mut child = command.spawn().context("it does not start")?;
        let run = async {
            let (answer, errors) =
                tokio::join!(head(child.stdout.take()), head(child.stderr.take()));
            Ok::<_, io::Error>((child.wait().await?, answer?, errors?))
        };
        let (status, answer, errors) = timeout(PREFLIGHT_TIME, run)
            .await
            .with_context(|| format!("it did not answer within {}s", PREFLIGHT_TIME.as_secs()))??;
        check_preflight(status, &answer, &errors)
    }

    /// Becomes the program, which restores this state. Returns only if the exec fails.
    ///
    /// The sockets of the state must be inheritable ([`set_inheritable`]) by then.
    pub(crate) fn exec(&self, state: &File) -> anyhow::Result<Infallible> {
        let path = CString::new(self.path.as_os_str().as_bytes())?;
        let args = self.args.iter().map(|arg| CString::new(arg.as_bytes()));
        let args = args.collect::<Result<Vec<_>, _>>()?;
        let kept = |name: &OsStr| {
            name != STATE_VARIABLE && !LISTEN_VARS.iter().any(|variable| name == *variable)
        };
        let number = OsString::from(state.as_raw_fd().to_string());
        let environment = env::vars_os()
            .filter(|(name, _)| kept(name))
            .chain([(STATE_VARIABLE.into(), number)])
            .map(|(mut variable, value)| {
                variable.push("=");
                variable.push(value);
                CString::new(variable.into_vec())
            })
            .collect::<Result<Vec<_>, _>>()?;
        set_inheritable(state.as_fd(), true)?;
        let failed = nix::unistd::execve(&path, &args, &environment);
        set_inheritable(state.as_fd(), false)?;
        Ok(failed?)
    }
}

/// Paths that a program which was called by this name may have.
fn candidates(name: &OsStr) -> Vec<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return std::path::absolute(name).into_iter().collect();
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .map(|directory| directory.join(name))
        .collect()
}

/// The path that the kernel was given for the program of this process. To be called before the
/// working directory changes: the path may be relative to it.
#[allow(unsafe_code)]
fn started_from() -> Option<PathBuf> {
    // SAFETY: getauxval(3) takes any number.
    let name = unsafe { libc::getauxval(libc::AT_EXECFN) } as *const c_char;
    if name.is_null() {
        return None;
    }
    // SAFETY: the kernel put a string there that ends in NUL, and nobody writes to it.
    let name = unsafe { CStr::from_ptr(name) };
    std::path::absolute(OsStr::from_bytes(name.to_bytes())).ok()
}

/// The path without the " (deleted)" that the kernel appends when another file is at it by now.
fn without_mark(path: PathBuf) -> PathBuf {
    match path.as_os_str().as_bytes().strip_suffix(b" (deleted)") {
        Some(path) => OsStr::from_bytes(path).into(),
        None => path,
    }
}

/// Device and inode of the file at this path.
fn identify(path: &Path) -> io::Result<(u64, u64)> {
    let file = path.metadata()?;
    Ok((file.dev(), file.ino()))
}

/// The beginning of a program's output. The rest is not waited for.
async fn head(output: Option<impl AsyncRead + Unpin>) -> io::Result<String> {
    let mut bytes = Vec::new();
    if let Some(output) = output {
        output
            .take(OUTPUT_BYTES_MAX)
            .read_to_end(&mut bytes)
            .await?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn check_preflight(status: ExitStatus, answer: &str, errors: &str) -> anyhow::Result<()> {
    if !status.success() {
        match errors.trim_end().lines().last() {
            None => bail!("it ends with {status}"),
            Some(last) => bail!("it ends with {status}: {last}"),
        }
    }
    let answer_line = answer.lines().next().unwrap_or_default();
    ensure!(
        answer == header(VERSION),
        "it reads '{answer_line}', and not '{}'",
        header(VERSION).trim_end()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_is_known_by_the_path_it_was_started_from() {
        let executable = Executable::current().unwrap();
        assert_eq!(
            identify(&executable.path).unwrap(),
            identify(Path::new("/proc/self/exe")).unwrap()
        );
        assert!(executable.path.is_absolute());
        let started = started_from().unwrap();
        assert_eq!(
            identify(&started).unwrap(),
            identify(&executable.path).unwrap()
        );
    }

    #[test]
    fn name_without_a_slash_is_looked_up_in_the_path() {
        let found = candidates(OsStr::new("sh"));
        assert!(found.contains(&PathBuf::from("/bin/sh")), "{found:?}");
        assert_eq!(candidates(OsStr::new("/x/y")), [PathBuf::from("/x/y")]);
        let here = env::current_dir().unwrap();
        assert_eq!(candidates(OsStr::new("./y")), [here.join("y")]);
    }

    fn executable(script: &str) -> Executable {
        let args = ["sh", "-c", script].map(OsString::from);
        Executable {
            path: "/bin/sh".into(),
            args: args.into(),
        }
    }

    #[tokio::test]
    async fn only_the_right_answer_passes_the_preflight() {
        assert!(
            executable(&format!("printf '{}'", header(VERSION).escape_default()))
                .preflight()
                .await
                .is_ok()
        );
        for (script, why) in [
            ("true", "it reads '', and not 'linehub state"),
            (
                "echo linehub state 0",
                "it reads 'linehub state 0', and not",
            ),
            (
                "echo 'no config' >&2; exit 2",
                "it ends with exit status: 2: no config",
            ),
            ("exit 1", "it ends with exit status: 1"),
            ("kill -9 $$", "it ends with signal: 9"),
            ("while :; do echo y; done", "it ends with signal: 13"),
        ] {
            let error = executable(script)
                .preflight()
                .await
                .unwrap_err()
                .to_string();
            assert!(error.starts_with(why), "{script}: {error}");
        }
        let nothing = Executable {
            path: "/nonexistent".into(),
            args: Vec::new(),
        };
        let error = nothing.preflight().await.unwrap_err().to_string();
        assert_eq!(error, "it does not start");
    }
}
