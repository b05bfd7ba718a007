//! What the sessions do: what people do with the storage (notes, logs, a
//! certificate's renewal), one after another and at the same time.

use std::fs;
use std::path::PathBuf;

use crate::chance::Chance;
use crate::record::{Change, Content, Step};
use crate::stage::Stage;

/// Runs so many rounds of it.
pub fn run(stage: &mut Stage, rounds: usize, chance: &mut Chance) {
    let sources = stage.rig.dir().join("sources");
    fs::create_dir(&sources).expect("sources");
    let mut author = Author {
        sources,
        chance,
        next: 0,
    };
    stage.serial(Step::nothing().then(author.directories()));
    for round in 0..rounds {
        stage.serial(author.note(&format!("log/{round}")));
        stage.serial(author.renewal(round));
        stage.serial(author.replacement("override.yaml"));
        beside_another(stage, &mut author, round);
        stage.together(vec![
            author.note(&format!("log/{round}a")),
            author.blob(&format!("big/{round}"), round.checked_sub(1)),
            author.replacement("webui.html"),
        ]);
        stage.serial(Step::nothing());
    }
}

/// Sessions come and go while one is open: none of them waits for read-only.
fn beside_another(stage: &mut Stage, author: &mut Author<'_>, round: usize) {
    let long = stage.hold(author.note(&format!("log/{round}-long")));
    stage.serial(author.note(&format!("log/{round}-short")));
    stage.serial(author.replacement("override.yaml"));
    let longer = stage.hold(author.blob(&format!("big/{round}-longer"), None));
    stage.release(long);
    stage.serial(author.removal(&format!("log/{round}-short")));
    stage.release(longer);
    stage.serial(author.removal(&format!("big/{round}-longer")));
}

/// Writes scripts.
struct Author<'a> {
    /// Where what they copy lies, on another filesystem.
    sources: PathBuf,
    chance: &'a mut Chance,
    next: usize,
}

impl Step {
    /// A session that only opens and closes.
    pub fn nothing() -> Step {
        Step {
            script: "set -e; cd $KVMD_PST_DATA".to_owned(),
            changes: Vec::new(),
        }
    }

    fn then(mut self, script: String) -> Step {
        self.script = format!("{}; {script}", self.script);
        self
    }

    fn leaves(mut self, path: &str, content: Option<Content>, atomic: bool) -> Step {
        self.changes.push(Change {
            path: format!("data/{path}"),
            leaves: content,
            atomic,
        });
        self
    }
}

impl Author<'_> {
    fn directories(&self) -> String {
        "mkdir log big cert".to_owned()
    }

    /// New bytes, and the file that has them.
    fn source(&mut self, len: usize) -> (String, Option<Content>) {
        let bytes: Vec<u8> = (0..len).map(|_| self.chance.below(256) as u8).collect();
        let file = self.sources.join(self.next.to_string());
        self.next += 1;
        fs::write(&file, &bytes).expect("source");
        let content = Content::File(bytes.into());
        (file.to_str().expect("UTF-8").to_owned(), Some(content))
    }

    /// A small new file.
    fn note(&mut self, path: &str) -> Step {
        let len = 1 + self.chance.below(3000) as usize;
        let (source, content) = self.source(len);
        Step::nothing()
            .then(format!("cp {source} {path}"))
            .leaves(path, content, false)
    }

    /// A new file of many blocks, and the one before it removed.
    fn blob(&mut self, path: &str, before: Option<usize>) -> Step {
        let len = 12_000 + self.chance.below(20_000) as usize;
        let (source, content) = self.source(len);
        let step = Step::nothing()
            .then(format!("cp {source} {path}"))
            .leaves(path, content, false);
        match before {
            None => step,
            Some(before) => {
                step.then(format!("rm big/{before}"))
                    .leaves(&format!("big/{before}"), None, true)
            }
        }
    }

    fn removal(&mut self, path: &str) -> Step {
        Step::nothing()
            .then(format!("rm {path}"))
            .leaves(path, None, true)
    }

    /// As editors save: a new file, synced, in the place of the old one.
    fn replacement(&mut self, path: &str) -> Step {
        let len = 1 + self.chance.below(6000) as usize;
        let (source, content) = self.source(len);
        Step::nothing()
            .then(format!(
                "cp {source} {path}.new; sync {path}.new; mv -T {path}.new {path}"
            ))
            .leaves(&format!("{path}.new"), None, false)
            .leaves(path, content, true)
    }

    /// As certbot's script does: a whole new tree, synced, swapped in, the one
    /// before the last removed.
    fn renewal(&mut self, round: usize) -> Step {
        let tree = format!("cert/{round}");
        let mut step = Step::nothing().then(format!("mkdir {tree}"));
        for name in ["chain.pem", "fullchain.pem", "privkey.pem"] {
            let len = 1500 + self.chance.below(3000) as usize;
            let (source, content) = self.source(len);
            let path = format!("{tree}/{name}");
            step = step
                .then(format!("cp {source} {path}"))
                .leaves(&path, content, false);
        }
        let live = Content::Link(round.to_string());
        step = step
            .then(format!(
                "sync -f {tree}; ln -s {round} cert/new; mv -T cert/new cert/live"
            ))
            .leaves("cert/new", None, false)
            .leaves("cert/live", Some(live), true);
        if let Some(old) = round.checked_sub(2) {
            step = step.then(format!("rm -r cert/{old}"));
            for name in ["chain.pem", "fullchain.pem", "privkey.pem"] {
                step = step.leaves(&format!("cert/{old}/{name}"), None, true);
            }
        }
        step
    }
}
