//! From a cut to a verdict: the card as the cut left it, ext4's own recovery by
//! a real mount, `e2fsck -fn`, and the files. Several cards at a time.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use crate::alone::Alone;
use crate::archive;
use crate::card::{Card, Event};
use crate::chance::Chance;
use crate::cut::{Cut, SUPERBLOCK, cuts};
use crate::fuse;
use crate::record::{self, Content, Record, Tree};
use crate::rig::{Outcome, Rig, RunToEnd, attach};

/// Mounts it read-only, as at boot (ext4 replays its journal all the same), takes
/// out all files, unmounts it, and looks whether e2fsck has anything to say. Its
/// arguments: device, mount point. Nothing of the cut before may be in the
/// device's cache.
const RECOVERY: &str = r#"
blockdev --flushbufs "$1" || exit
mount -t ext4 -o ro "$1" "$2" || exit 91
TAR --exclude=lost+found -C "$2" . || exit
umount "$2" || exit
exec e2fsck -fn "$1" >&2"#;
const NOT_MOUNTED: i32 = 91;

/// Of so many cuts during transactions that are not at a flush, one is tried, unless PST_POWER_SAMPLE says otherwise.
const SAMPLE: u64 = 8;

/// What came out.
#[derive(Debug, Default)]
pub struct Report {
    pub cuts: usize,
    pub boundaries: usize,
    /// While no session was open: no recovery needed.
    pub quiet: usize,
    /// The journal had something to replay.
    pub recovered: usize,
    pub files: usize,
    /// With half a superblock.
    pub torn_superblocks: usize,
    /// Of these, the kernel refused so many, and `pst repair` repaired them.
    pub mended: usize,
    /// Files that were acknowledged and are not as they must be.
    pub lost: Vec<String>,
    /// Everything else that is not as it must be.
    pub broken: Vec<String>,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} cut points replayed ({} flush boundaries, {} without a session), {} recovered, \
             {} of {} torn superblocks repaired by pst repair, {} files checked, lost: {}, broken: {}",
            self.cuts,
            self.boundaries,
            self.quiet,
            self.recovered,
            self.mended,
            self.torn_superblocks,
            self.files,
            self.lost.len(),
            self.broken.len()
        )
    }
}

impl Report {
    /// Fails with the first of what is wrong.
    #[track_caller]
    pub fn must_be_clean(&self) {
        let wrong: Vec<&String> = self.lost.iter().chain(&self.broken).take(10).collect();
        assert!(wrong.is_empty(), "{self}\n{wrong:#?}");
    }
}

/// Replays every cut of a record.
pub fn replay(rig: &Rig, record: &Record, seed: u64) -> Report {
    let chance = &mut Chance::new(seed);
    let mut cuts = cuts(record, chance);
    if !record.swaps.is_empty() {
        // Boundaries and marks, and a sample of what is between them.
        let sample = crate::number("PST_POWER_SAMPLE").unwrap_or(SAMPLE);
        cuts.retain(|cut| {
            let is_chosen = cut.is_boundary() || cut.kept.is_empty() || chance.once_in(sample);
            record.swap(cut.at).is_some() && is_chosen
        });
    }
    let report = Mutex::new(Report::default());
    let workers = std::thread::available_parallelism().map_or(2, |n| n.get().min(8));
    std::thread::scope(|scope| {
        for worker in 0..workers {
            let (cuts, report) = (&cuts, &report);
            scope.spawn(move || {
                let mut bench = Bench::new(rig, record, &format!("replay{worker}"));
                for cut in cuts.iter().skip(worker).step_by(workers) {
                    bench.try_cut(cut, report);
                }
            });
        }
    });
    report.into_inner().expect("report")
}

/// A card of its own to try cuts on.
struct Bench<'a> {
    rig: &'a Rig,
    record: &'a Record,
    card: Arc<Card>,
    /// So many of the record's events are on the card for good.
    flushed: usize,
    file: PathBuf,
    device: String,
    mount: PathBuf,
    alone: Alone,
}

impl<'a> Bench<'a> {
    fn new(rig: &'a Rig, record: &'a Record, name: &str) -> Bench<'a> {
        let card = Arc::new(Card::new(record.base.clone()));
        let file = rig.dir().join(name);
        fuse::show(&card, rig, &file);
        let mount = rig.dir().join(format!("{name}.mount"));
        std::fs::create_dir(&mount).expect("mount point");
        Bench {
            device: attach(&file),
            rig,
            record,
            card,
            flushed: 0,
            file,
            mount,
            alone: Alone::new(rig),
        }
    }

    fn try_cut(&mut self, cut: &Cut, report: &Mutex<Report>) {
        self.apply(cut);
        let found = self.verdict(cut);
        self.card.roll_back();
        let mut report = report.lock().expect("report");
        report.cuts += 1;
        report.boundaries += usize::from(cut.is_boundary());
        report.torn_superblocks += usize::from(cut.tears_superblock);
        report.quiet += usize::from(self.record.is_quiet(cut.at));
        match found {
            Ok(found) => {
                report.recovered += usize::from(found.recovered);
                report.mended += usize::from(found.mended);
                report.files += found.files;
                let lost = found
                    .lost
                    .into_iter()
                    .map(|what| format!("{cut:?}: {what}"));
                report.lost.extend(lost);
            }
            Err(what) => report.broken.push(format!("{cut:?}: {what}")),
        }
    }

    /// Makes the card what the cut leaves.
    fn apply(&mut self, cut: &Cut) {
        let events = &self.record.events;
        for event in &events[self.flushed..cut.flushed] {
            if let Event::Write(write) = event {
                self.card.write(write.at, &write.new).expect("recorded");
            }
        }
        self.flushed = cut.flushed;
        self.card.take_events();
        for (event, part) in &cut.kept {
            if let Event::Write(write) = &events[*event] {
                let kept = &write.new[part.clone()];
                let at = write.at + part.start;
                self.card.write(at, kept).expect("recorded");
            }
        }
    }

    fn verdict(&self, cut: &Cut) -> Result<Found, String> {
        let mut found = Found::default();
        let needs_recovery = needs_recovery(&self.card);
        if self.record.is_quiet(cut.at) {
            if needs_recovery {
                return Err("no session was open, and needs_recovery is set".to_owned());
            }
            let untouched = self.e2fsck("-fn");
            if untouched.code() != 0 {
                return Err(format!("no session was open: {}", untouched.text()));
            }
        }
        let writes = self.card.writes();
        let mut recovery = self.recover();
        if recovery.code() == NOT_MOUNTED && cut.tears_superblock {
            let repaired = self.pst_repair();
            if repaired.code() != 0 || !repaired.text().contains("is repaired") {
                return Err(format!("pst repair: {repaired:?}"));
            }
            found.mended = true;
            recovery = self.recover();
        }
        if recovery.code() != 0 {
            return Err(format!("{}: {}", recovery.code(), recovery.stderr));
        }
        if self.record.is_quiet(cut.at) && self.card.writes() != writes {
            return Err("no session was open, and the mount wrote something".to_owned());
        }
        found.recovered = needs_recovery && !found.mended;
        self.compare(cut, &archive::read(&recovery.stdout), &mut found);
        Ok(found)
    }

    fn recover(&self) -> Outcome {
        let script = RECOVERY.replace("TAR", archive::TAR);
        let mut recovery = self.alone.script(self.rig, &script);
        recovery.arg(&self.device).arg(&self.mount).to_end()
    }

    /// `pst repair --yes` as on a machine whose fstab names this card.
    fn pst_repair(&self) -> Outcome {
        let [config, fstab] = ["toml", "fstab"].map(|kind| self.mount.with_extension(kind));
        let line = format!(
            "{} {} ext4 ro,X-kvmd.pst-user=0 0 2\n",
            self.device,
            self.mount.display()
        );
        std::fs::write(&fstab, line).expect("fstab");
        std::fs::write(&config, format!("[storage]\nfstab = {fstab:?}\n")).expect("config");
        let repair = self.rig.pst(["repair", "--yes", "-c"]).arg(config).to_end();
        let undo = format!("pst-repair-{}-", self.device.trim_start_matches("/dev/"));
        for file in std::fs::read_dir("/run").into_iter().flatten().flatten() {
            if file.file_name().to_string_lossy().starts_with(&undo) {
                let _ = std::fs::remove_file(file.path());
            }
        }
        repair
    }

    fn compare(&self, cut: &Cut, files: &Tree, found: &mut Found) {
        if let Some(swap) = self.record.swap(cut.at) {
            let there = record::directory(files, &swap.directory);
            found.files += there.len();
            if !swap.allows(cut.at, &there) {
                let names: Vec<&String> = there.keys().collect();
                found
                    .lost
                    .push(format!("{} is a mixture: {names:?}", swap.name));
            }
        }
        for (path, allowed) in self.record.demands(cut.at) {
            found.files += 1;
            let there = files.get(path).and_then(|entry| entry.content.as_ref());
            if !allowed.contains(&there) {
                found.lost.push(format!("{path} is {}", kind(there)));
            }
        }
    }

    fn e2fsck(&self, how: &str) -> Outcome {
        let mut e2fsck = self.rig.command("e2fsck");
        e2fsck.arg(how).arg(&self.file).to_end()
    }
}

#[derive(Default)]
struct Found {
    recovered: bool,
    mended: bool,
    files: usize,
    lost: Vec<String>,
}

fn kind(content: Option<&Content>) -> String {
    match content {
        None => "not there".to_owned(),
        Some(Content::File(bytes)) => format!("there with {} bytes, not whole", bytes.len()),
        Some(Content::Link(target)) => format!("a link to {target}"),
    }
}

/// The superblock's own word: s_feature_incompat.
fn needs_recovery(card: &Card) -> bool {
    let mut features = Vec::new();
    card.read(SUPERBLOCK.start + 0x60, 1, &mut features);
    features[0] & 4 != 0
}
