//! Where the configuration is read from, and read again in a reload.

use std::env;
use std::path::PathBuf;

use tracing::warn;

use super::capacity::{CLIENTS_FEW, clients_that_fit};
use super::cli::Cli;
use super::error::ConfigError;
use super::file;
use super::options::Config;
use super::raw::Options;

/// Where the configuration comes from: what was typed, and the file, which can be read again.
#[derive(Clone, Debug, Default)]
pub struct Source {
    typed: Options,
    file: Option<PathBuf>,
    open_files: u64,
    /// Where the service manager has the daemon keep its sockets: RUNTIME_DIRECTORY.
    runtime_directory: Option<String>,
}

impl Source {
    /// The options that were typed, and the file that they name. `open_files` is the open-file limit in
    /// force, in descriptors; it gives the default of `--max-clients`.
    pub fn new(cli: &Cli, open_files: u64) -> Source {
        Source {
            typed: cli.options.clone(),
            file: cli.config.clone(),
            open_files,
            runtime_directory: env::var("RUNTIME_DIRECTORY").ok(),
        }
    }

    /// Reads and checks the configuration. What was typed wins over the file, and the file over the
    /// defaults. Blocks for as long as reading the file does.
    ///
    /// # Errors
    /// The first mistake in the configuration, or why the file cannot be read.
    pub fn read(&self) -> Result<Config, ConfigError> {
        let file = self.file.as_deref().map(file::read).transpose()?;
        let mut options = self.typed.clone().or(file.unwrap_or_default());
        // As systemd.exec(5) says, there may be several.
        let directory = self.runtime_directory.as_deref();
        if let Some(directory) = directory.and_then(|all| all.split(':').next()) {
            let admin = format!("unix:{directory}/admin.sock");
            let default = Options::from_iter([("admin", vec![admin.as_str().into()])]);
            options = options.or(default);
        }
        Config::from_options(&options, self.open_files)
    }

    /// Warns when the open-file limit allows fewer clients than are configured, or only few.
    pub fn advise(&self, config: &Config) {
        let clients_possible = clients_that_fit(self.open_files, config.admin.is_some());
        if let Some(clients_max) = config.clients_max.filter(|max| *max > clients_possible) {
            warn!(
                clients_max,
                clients_possible, "the open-file limit allows fewer clients than --max-clients"
            );
        } else if clients_possible <= CLIENTS_FEW {
            warn!(
                open_files = self.open_files,
                clients_possible, "the open-file limit allows only few clients"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed_values_win_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("linehub.toml");
        std::fs::write(&path, "max-line = 10\nbuffer = '1MiB'\n").unwrap();
        let mut source = Source {
            typed: Options::from_iter([("max-line", vec!["20".into()])]),
            file: Some(path.clone()),
            open_files: 1024,
            runtime_directory: None,
        };
        let config = source.read().unwrap();
        assert_eq!((config.line_bytes_max, config.buffer_bytes), (20, 1 << 20));

        std::fs::write(&path, "buffer = '2MiB'\n").unwrap();
        assert_eq!(source.read().unwrap().buffer_bytes, 2 << 20, "read again");

        source.file = Some(dir.path().join("missing"));
        let error = source.read().unwrap_err().to_string();
        let expected = "missing: cannot be read: No such file or directory (os error 2)";
        assert!(error.ends_with(expected), "{error}");

        std::fs::write(&path, b"echo = true\nformat = '\xff'\n").unwrap();
        source.file = Some(path);
        let error = source.read().unwrap_err().to_string();
        assert!(
            error.ends_with("linehub.toml:2: the text is not UTF-8"),
            "{error}"
        );
    }
}
