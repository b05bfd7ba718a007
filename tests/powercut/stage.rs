//! A rig on a card that remembers, and the marks beside what it remembers:
//! when a session began, when `pst run` had returned 0, when nothing was open.

use std::process::Command;
use std::sync::Arc;

use crate::archive;
use crate::card::Card;
use crate::fuse;
use crate::record::{Record, Span, Step, Swap, Tree};
use crate::rig::{Fs, Job, Rig, RunToEnd, Setup, start, tool, wait_until};

/// The smallest that gets a journal as a real one does.
const CARD: usize = 16 << 20;

/// Where sessions are recorded.
pub struct Stage {
    pub rig: Rig,
    card: Arc<Card>,
    record: Record,
    open: usize,
}

/// A session that was begun.
pub struct Begun(usize);

impl Stage {
    /// From the mount at boot on, everything is on record.
    pub fn new() -> Stage {
        Stage::with(&[])
    }

    /// The same, where ext4 does not flush a file because it is renamed over another one.
    pub fn without_auto_da_alloc() -> Stage {
        Stage::with(&["-o", "remount,ro,noauto_da_alloc"])
    }

    fn with(remount: &[&str]) -> Stage {
        let card = Arc::new(Card::new(vec![0; CARD]));
        let medium = Arc::clone(&card);
        let setup = Setup::new(Fs::Ext4).unmounted().stopped();
        let setup = setup.on(move |rig| {
            let file = rig.dir().join("card");
            fuse::show(&medium, rig, &file);
            file
        });
        let mut rig = setup.start();
        let base = card.start_over();
        rig.do_mount();
        if !remount.is_empty() {
            tool(rig.command("mount").args(remount).arg(rig.mount()));
        }
        let prepared = card.position();
        rig.prepare().must(0);
        rig.start_daemon();
        let mut stage = Stage {
            rig,
            card,
            record: Record {
                base,
                events: Vec::new(),
                steps: Vec::new(),
                swaps: Vec::new(),
                quiet: vec![(0, prepared)],
            },
            open: 0,
        };
        stage.settle();
        stage
    }

    /// From here on a power cut must cost nothing.
    pub fn settle(&mut self) {
        self.rig.await_superblock("ro");
        let at = self.card.position();
        self.record.quiet.push((at, at));
    }

    /// Marks a step as begun, just before its session is started.
    pub fn begin(&mut self, step: Step) -> Begun {
        let begun = self.card.position();
        if self.open == 0 {
            let (_, last) = self.record.quiet.last_mut().expect("settled");
            *last = begun;
        }
        self.open += 1;
        let span = Span {
            begun,
            acknowledged: None,
        };
        self.record.steps.push((step, span));
        Begun(self.record.steps.len() - 1)
    }

    /// Marks it as acknowledged: `pst run` has returned 0. No session is open if
    /// it was the last one.
    pub fn acknowledge(&mut self, step: Begun) {
        self.acknowledge_only(&step);
        self.end(step);
    }

    /// The same while its session may still be open.
    pub fn acknowledge_only(&mut self, step: &Begun) {
        self.record.steps[step.0].1.acknowledged = Some(self.card.position());
    }

    /// Its session is over.
    pub fn end(&mut self, _: Begun) {
        self.open -= 1;
        if self.open == 0 {
            self.settle();
        }
    }

    /// One session, alone or beside others that are open.
    #[track_caller]
    pub fn serial(&mut self, step: Step) {
        let begun = self.begin(step.clone());
        self.rig.sh(&step.script).must(0);
        self.acknowledge(begun);
    }

    /// A session that stays open after its script.
    pub fn hold(&mut self, step: Step) -> (Begun, Job) {
        let begun = self.begin(step.clone());
        (begun, self.rig.session_with(&step.script))
    }

    /// The same for a script that nobody looks at.
    pub fn hold_script(&mut self, script: &str) -> (Begun, Job) {
        self.hold(Step {
            script: script.to_owned(),
            changes: Vec::new(),
        })
    }

    /// Ends such a session.
    #[track_caller]
    pub fn release(&mut self, (begun, job): (Begun, Job)) {
        job.end().must(0);
        self.acknowledge(begun);
    }

    /// Sessions at the same time, each acknowledged when it is.
    pub fn together(&mut self, steps: Vec<Step>) {
        let mut jobs = Vec::new();
        for step in steps {
            let script = step.script.clone();
            let begun = self.begin(step);
            let job = start(&mut self.rig.run(["sh", "-c", &script]));
            jobs.push((begun, job));
        }
        while !jobs.is_empty() {
            let mut ended = None;
            wait_until("a session ends", || {
                ended = jobs.iter_mut().position(|(_, job)| !job.is_running());
                ended.is_some()
            });
            let (begun, job) = jobs.swap_remove(ended.expect("just found"));
            job.end().must(0);
            self.acknowledge(begun);
        }
    }

    /// A session that nobody looks at.
    #[track_caller]
    pub fn script(&mut self, script: &str) {
        self.serial(Step {
            script: script.to_owned(),
            changes: Vec::new(),
        });
    }

    /// A transaction on a directory, whose command must return 0.
    #[track_caller]
    pub fn swap(&mut self, name: &str, directory: &str, command: &mut Command) {
        let old = self.tree(directory);
        let step = self.begin(Step {
            script: String::new(),
            changes: Vec::new(),
        });
        let begun = self.card.position();
        command.to_end().must(0);
        let acknowledged = Some(self.card.position());
        self.acknowledge(step);
        self.record.swaps.push(Swap {
            name: name.to_owned(),
            directory: directory.to_owned(),
            old,
            new: self.tree(directory),
            span: Span {
                begun,
                acknowledged,
            },
        });
    }

    fn tree(&self, directory: &str) -> Tree {
        let script = format!("{} -C \"$1\" \"$2\"", archive::TAR);
        let mut tar = self.rig.command("sh");
        tar.args(["-c", &script, "sh"])
            .arg(self.rig.mount())
            .arg(directory);
        archive::read(&tar.to_end().must(0).stdout)
    }

    /// Stops and unmounts all, and gives the record. The rig is for its replay.
    pub fn finish(mut self) -> (Rig, Record) {
        assert_eq!(self.open, 0, "a session is still open");
        self.rig.stop_daemon();
        self.rig.umount(&[]);
        let (_, last) = self.record.quiet.last_mut().expect("settled");
        *last = self.card.position();
        self.record.events = self.card.take_events();
        (self.rig, self.record)
    }
}
