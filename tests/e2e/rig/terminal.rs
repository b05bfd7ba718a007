//! A real terminal for interactive programs: a tmux server of its own.

use std::process::Command;

use super::job::tool;
use super::{Rig, wait_until};

/// A terminal with a shell in it.
pub struct Terminal<'a> {
    rig: &'a Rig,
}

impl<'a> Terminal<'a> {
    /// A terminal of 80 by 24 with an interactive bash.
    pub fn new(rig: &'a Rig) -> Terminal<'a> {
        let bash = [
            "env",
            "PS1=$ ",
            "HISTFILE=",
            "bash",
            "--norc",
            "--noprofile",
        ];
        Terminal::with_shell(rig, &bash)
    }

    /// The same with another shell, whose prompt is `$ `.
    pub fn with_shell(rig: &'a Rig, words: &[&str]) -> Terminal<'a> {
        let terminal = Terminal { rig };
        let mut tmux = terminal.tmux();
        tmux.args(["-f", "/dev/null", "new-session", "-d"]);
        tool(tmux.args(["-x", "80", "-y", "24"]).args(words));
        terminal.await_screen("$");
        terminal
    }

    fn tmux(&self) -> Command {
        let mut tmux = self.rig.command("tmux");
        tmux.arg("-S")
            .arg(self.rig.dir().join("tmux.sock"))
            .env_remove("TMUX")
            .env("LC_ALL", "C.UTF-8");
        tmux
    }

    /// Presses keys, as tmux names them: `C-c`, `Enter`.
    pub fn press(&self, keys: &[&str]) {
        tool(self.tmux().arg("send-keys").args(keys));
    }

    /// Types a line.
    pub fn line(&self, text: &str) {
        self.text(text);
        self.press(&["Enter"]);
    }

    /// Types this, and nothing more.
    pub fn text(&self, text: &str) {
        tool(self.tmux().args(["send-keys", "-l", text]));
    }

    /// Changes its size.
    pub fn resize(&self, columns: u32, rows: u32) {
        let (columns, rows) = (columns.to_string(), rows.to_string());
        tool(
            self.tmux()
                .args(["resize-window", "-x", &columns, "-y", &rows]),
        );
    }

    pub fn screen(&self) -> String {
        tool(self.tmux().args(["capture-pane", "-p", "-J"]))
    }

    /// The same with the sequences that colour it.
    pub fn screen_with_colours(&self) -> String {
        tool(self.tmux().args(["capture-pane", "-p", "-J", "-e"]))
    }

    /// Waits until the text is on the screen.
    #[track_caller]
    pub fn await_screen(&self, text: &str) {
        let found = super::wait::holds_within(super::BOUND, || self.screen().contains(text));
        assert!(found, "no {text:?} on the screen:\n{}", self.screen());
    }
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        let _ = self.tmux().arg("kill-server").output();
        if !std::thread::panicking() {
            wait_until("tmux is gone", || {
                !self.rig.dir().join("tmux.sock").exists()
                    || self
                        .tmux()
                        .arg("ls")
                        .output()
                        .is_ok_and(|o| !o.status.success())
            });
        }
    }
}
