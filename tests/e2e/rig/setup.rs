//! What kind of rig a test wants, and making it.

use std::ffi::OsString;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::Rig;
use super::daemon::Daemon;
use super::ground::{Ground, sparse};
use super::job::tool;
use super::namespace::{Namespace, World};
use super::person::{ACCESS_GROUP, STORAGE_USER};
use super::privilege::lacks_root;

/// A filesystem that the storage can be.
#[derive(Clone, Copy, PartialEq)]
pub enum Fs {
    Ext4,
    Xfs,
    Btrfs,
    Tmpfs,
}

impl Fs {
    fn name(self) -> &'static str {
        match self {
            Fs::Ext4 => "ext4",
            Fs::Xfs => "xfs",
            Fs::Btrfs => "btrfs",
            Fs::Tmpfs => "tmpfs",
        }
    }

    /// As PiKVM OS mounts it.
    fn options(self) -> &'static str {
        match self {
            Fs::Ext4 => "ro,nodev,nosuid,noexec,errors=remount-ro",
            _ => "ro,nodev,nosuid,noexec",
        }
    }
}

/// What the image lies on, if that matters.
#[derive(Clone, Copy)]
enum Backing {
    /// A tmpfs of so many MiB: full, it refuses what it does not have yet (ENOSPC).
    Tmpfs(u64),
    /// An ext4 of its own: there a file can be made to refuse every write (EIO).
    Ext4,
}

/// Makes what is below the loop device, in the rig's directory; gives the file.
type Medium = Box<dyn FnOnce(&Rig) -> PathBuf + Send + Sync>;

/// A rig to be.
pub struct Setup {
    pub(super) fs: Fs,
    pub(super) mount_name: String,
    mounted: bool,
    prepared: bool,
    running: bool,
    world: World,
    pub(super) clients_have_config: bool,
    backing: Option<Backing>,
    medium: Option<Medium>,
    head: String,
    storage: String,
    session: String,
    kvmd_api: String,
}

impl Setup {
    pub fn new(fs: Fs) -> Setup {
        Setup {
            fs,
            mount_name: "pst".to_owned(),
            mounted: true,
            prepared: true,
            running: true,
            world: World::Host,
            clients_have_config: false,
            backing: None,
            medium: None,
            head: String::new(),
            storage: String::new(),
            session: String::new(),
            kvmd_api: String::new(),
        }
    }

    /// ext4 for root, a tmpfs in a user namespace.
    pub fn any() -> Setup {
        Setup::new(if lacks_root() { Fs::Tmpfs } else { Fs::Ext4 })
    }

    /// The mount point's name in the rig's directory.
    pub fn mount_name(mut self, name: &str) -> Setup {
        self.mount_name = name.to_owned();
        self
    }

    /// Not mounted, so not prepared either.
    pub fn unmounted(mut self) -> Setup {
        self.mounted = false;
        self.unprepared()
    }

    /// Mounted, but `pst prepare` has not run.
    pub fn unprepared(mut self) -> Setup {
        self.prepared = false;
        self
    }

    /// The daemon is not started.
    pub fn stopped(mut self) -> Setup {
        self.running = false;
        self
    }

    /// Clients find the rig's configuration: it names the storage's owner, who runs the daemon.
    pub fn clients_have_config(mut self) -> Setup {
        self.clients_have_config = true;
        self
    }

    /// Everything happens in a mount namespace of its own, with shared
    /// propagation, as on a booted system.
    pub fn own_namespace(mut self) -> Setup {
        self.world = World::Mounts;
        self
    }

    /// The same with process numbers and a `/proc/1` of its own: nobody else's
    /// mounts are seen, by whatever way.
    pub fn own_world(mut self) -> Setup {
        self.world = World::Whole;
        self
    }

    /// The image lies on a tmpfs of this many MiB.
    pub fn backed_by_tmpfs(mut self, mebibytes: u64) -> Setup {
        self.backing = Some(Backing::Tmpfs(mebibytes));
        self
    }

    /// The image lies on an ext4, where [`Rig::refuse_writes`] works.
    pub fn backed_by_ext4(mut self) -> Setup {
        self.backing = Some(Backing::Ext4);
        self
    }

    /// The loop device is on a file that the test makes, in the rig's directory.
    #[allow(dead_code)] // the power cuts' rig, which shares this one, has it
    pub fn on(mut self, medium: impl FnOnce(&Rig) -> PathBuf + Send + Sync + 'static) -> Setup {
        self.medium = Some(Box::new(medium));
        self
    }

    /// A line at the top of the config file.
    pub fn head(mut self, line: &str) -> Setup {
        writeln!(self.head, "{line}").expect("a string");
        self
    }

    /// A line in its `[storage]` table.
    pub fn storage(mut self, line: &str) -> Setup {
        writeln!(self.storage, "{line}").expect("a string");
        self
    }

    /// A line in its `[session]` table.
    pub fn session(mut self, line: &str) -> Setup {
        writeln!(self.session, "{line}").expect("a string");
        self
    }

    /// A line in its `[kvmd_api]` table.
    #[cfg(feature = "kvmd-api")]
    pub fn kvmd_api(mut self, line: &str) -> Setup {
        writeln!(self.kvmd_api, "{line}").expect("a string");
        self
    }

    /// Makes it.
    pub fn start(self) -> Rig {
        let mut rig = Rig {
            daemon: None,
            at_end: self.mounted.then_some("ro"),
            setup: self,
            namespace: None,
            ground: Ground::new(),
        };
        fs::create_dir(rig.mount()).expect("mount point");
        fs::create_dir(rig.run_dir()).expect("run");
        if rig.setup.world != World::Host {
            rig.namespace = Some(Namespace::new(&rig, rig.setup.world));
        }
        rig.make_filesystem();
        rig.write_config();
        if rig.setup.mounted {
            rig.do_mount();
        }
        if rig.setup.prepared {
            rig.prepare().must(0);
        }
        if rig.setup.running {
            rig.start_daemon();
        }
        rig
    }
}

impl Rig {
    fn make_filesystem(&mut self) {
        let mebibytes = match self.setup.fs {
            Fs::Tmpfs => return,
            Fs::Ext4 => 32,
            Fs::Btrfs => 128,
            Fs::Xfs => 320, // the least that mkfs.xfs takes is 300
        };
        let mut image = self.dir().join("image");
        if let Some(backing) = self.setup.backing {
            image = self.make_backing(backing).join("image");
        }
        match self.setup.medium.take() {
            Some(make) => image = make(self),
            None => image = sparse(&image, mebibytes),
        }
        let device = self.ground.attach(&image);
        let mut mkfs = Command::new(format!("mkfs.{}", self.setup.fs.name()));
        mkfs.args(["-q", "-L", "PIPST"]);
        if self.setup.fs == Fs::Ext4 {
            // A partition in use has been initialised long ago.
            mkfs.args(["-E", "lazy_itable_init=0,lazy_journal_init=0"]);
        }
        tool(mkfs.arg(device));
    }

    fn make_backing(&self, backing: Backing) -> PathBuf {
        let at = self.dir().join("backing");
        fs::create_dir(&at).expect("backing");
        let mut mount = Command::new("mount");
        match backing {
            Backing::Tmpfs(size) => {
                mount.args(["-t", "tmpfs", "-o", &format!("size={size}m"), "tmpfs"]);
            }
            Backing::Ext4 => {
                mount.arg(self.make_device("outer", 64));
            }
        }
        tool(mount.arg(&at));
        at
    }

    /// Mounts the storage as fstab has it, read-only; as long as it is mounted elsewhere or
    /// lazily unmounted, and writable, the kernel says busy.
    #[track_caller]
    pub fn do_mount(&self) {
        let fs = self.setup.fs;
        let source = self.ground.device.as_deref().unwrap_or("tmpfs");
        let mut mount = self.command("mount");
        mount
            .args(["-t", fs.name(), "-o", fs.options(), source])
            .arg(self.mount());
        super::wait::wait_until("it is mounted", || {
            mount.output().expect("mount").status.success()
        });
    }

    fn write_config(&self) {
        let (user, group) = if lacks_root() {
            (0, 0)
        } else {
            (STORAGE_USER, ACCESS_GROUP)
        };
        let fs = self.setup.fs;
        let mount = self.mount().to_str().expect("UTF-8").replace(' ', "\\040");
        let source = self.ground.device.as_deref().unwrap_or("tmpfs");
        let fstab = format!(
            "# the rig's own\n\
             {source} {mount} {} {},X-kvmd.pst-user={user},X-kvmd.pst-group={group} 0 2\n",
            fs.name(),
            fs.options(),
        );
        let at = self.dir().join("fstab");
        fs::write(&at, fstab).expect("fstab");
        let Setup {
            head,
            storage,
            session,
            kvmd_api,
            ..
        } = &self.setup;
        let group_line = if head.contains("group") {
            String::new()
        } else {
            format!("group = \"{group}\"\n")
        };
        let config = format!(
            "socket = {:?}\n{group_line}{head}\n\
             [storage]\nfstab = {at:?}\nvolatile = {}\n{storage}\n\
             [session]\n{session}\n\
             [kvmd_api]\n{kvmd_api}",
            self.socket(),
            fs == Fs::Tmpfs,
        );
        fs::write(self.config(), config).expect("config");
    }

    /// Starts the daemon and waits until it says that it is ready.
    pub fn start_daemon(&mut self) {
        self.start_daemon_as(self.daemon_command());
    }

    /// The same with a command of the test's own.
    pub fn start_daemon_as(&mut self, command: Command) {
        assert!(self.daemon.is_none(), "there is one already");
        self.daemon = Some(Daemon::start(command, self));
    }

    /// `pst daemon` with this rig's configuration.
    pub fn daemon_command(&self) -> Command {
        let words = self.daemon_words();
        let mut command = self.command(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null());
        command
    }

    /// The same as words, behind what `PST_TEST_LAUNCHER` names to run it in.
    pub fn daemon_words(&self) -> Vec<OsString> {
        let mut words = Vec::from_iter(std::env::var_os("PST_TEST_LAUNCHER"));
        words.push(self.bin("pst").into());
        words.extend(["daemon".into(), "-c".into(), self.config().into()]);
        words
    }
}
