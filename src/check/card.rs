//! The SD card: who made it, whether it has a write cache in use, and whether it is one of those
//! that are known to fail at emptying it.

use std::fs;
use std::path::Path;

use super::device::Device;
use super::finding::{Finding, Id};
use crate::escape::escape;
use crate::escape::escape_path;

/// What a card says of itself: its CID, as sysfs shows it.
#[derive(Debug, PartialEq)]
struct Identity {
    name: String,
    manfid: u32,
    oemid: u32,
    year: u32,
    month: u32,
}

/// Cards of one kind that do not empty their write cache when they are told to.
struct Liar {
    what: &'static str,
    manfid: u32,
    oemid: u32,
    /// `None`: any.
    name: Option<&'static str>,
    year: u32,
    /// `None`: any.
    month: Option<u32>,
}

/// StorageInfo from the kernel's table of cards for which it leaves the cache off
/// (MMC_QUIRK_BROKEN_SD_CACHE), drivers/mmc/core/quirks.h with the makers' numbers in card.h: Linux
/// has the first two, the Raspberry Pi's kernel (rpi-6.12.y and later) all of them.
const LIARS: [Liar; 9] = [
    kingston("SD64G", 2019, 11),
    Liar {
        what: "Gigastone Gaming Plus of 02/2022",
        manfid: 0x12,
        oemid: 0x3456,
        name: Some("ASTC"),
        year: 2022,
        month: Some(2),
    },
    any("Kingston Canvas Go! Plus of 2019", 0x9f, 0x5449, 2019),
    any("Kingston Canvas Go! Plus of 2020", 0x9f, 0x5449, 2020),
    any("Kingston Canvas Go! Plus of 2021", 0x9f, 0x5449, 2021),
    any("Kingston Canvas Go! Plus of 2022", 0x9f, 0x5449, 2022),
    any("Samsung Pro Plus and Evo Plus of 2023", 0x1b, 0x534d, 2023),
    any("SanDisk Extreme (A2) of 2019", 0x03, 0x5344, 2019),
    any("SanDisk Extreme (A2) of 2020", 0x03, 0x5344, 2020),
];

const fn kingston(name: &'static str, year: u32, month: u32) -> Liar {
    Liar {
        what: "Kingston Canvas Go! Plus of 11/2019",
        manfid: 0x9f,
        oemid: 0x5449,
        name: Some(name),
        year,
        month: Some(month),
    }
}

const fn any(what: &'static str, manfid: u32, oemid: u32, year: u32) -> Liar {
    Liar {
        what,
        manfid,
        oemid,
        name: None,
        year,
        month: None,
    }
}

impl Liar {
    fn is(&self, card: &Identity) -> bool {
        (self.manfid, self.oemid, self.year) == (card.manfid, card.oemid, card.year)
            && self.month.is_none_or(|month| month == card.month)
            && self.name.is_none_or(|name| name == card.name)
    }
}

/// The card, and its cache.
pub(super) fn look(device: &Device) -> Vec<Finding> {
    let cache = line(&device.disk.join("queue/write_cache"));
    let cached = cache.as_deref().map(|word| word == "write back");
    let card = match identity(&device.disk.join("device")) {
        Some(card) => named(&card, cached),
        None => Finding::ok(
            Id::Card,
            format!(
                "{} is no SD card, or does not say which",
                escape_path(&device.node)
            ),
        ),
    };
    let cache = match cached {
        Some(true) => Finding::ok(
            Id::CardCache,
            "a write cache, which is emptied before a session's end is called durable",
        ),
        Some(false) => Finding::ok(Id::CardCache, "no write cache in use"),
        None => Finding::unseen(
            Id::CardCache,
            "whether it has a write cache: /sys does not say",
        ),
    };
    vec![card, cache]
}

fn named(card: &Identity, cached: Option<bool>) -> Finding {
    let shown = format!(
        "{} (maker 0x{:02x}, 0x{:04x}) of {:02}/{}",
        escape(&card.name),
        card.manfid,
        card.oemid,
        card.month,
        card.year
    );
    let Some(liar) = LIARS.iter().find(|liar| liar.is(card)) else {
        return Finding::ok(Id::Card, shown);
    };
    let known = format!(
        "{shown}: {} are known not to empty their write cache",
        liar.what
    );
    match cached {
        Some(false) => Finding::ok(Id::Card, format!("{known}, but it is not in use")),
        _ => Finding::warning(
            Id::Card,
            format!("{known}: what `pst run` calls durable may be lost in a power cut"),
            "replace the card, or run a kernel that leaves its cache off",
        ),
    }
}

/// `None` for what is no SD or MMC card.
fn identity(device: &Path) -> Option<Identity> {
    let date = line(&device.join("date"))?;
    let (month, year) = date.split_once('/')?;
    Some(Identity {
        name: line(&device.join("name"))?,
        manfid: hex(&line(&device.join("manfid"))?)?,
        oemid: hex(&line(&device.join("oemid"))?)?,
        year: year.parse().ok()?,
        month: month.parse().ok()?,
    })
}

fn hex(text: &str) -> Option<u32> {
    u32::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

fn line(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::super::sight::tests::Tree;
    use super::*;

    /// The level of `card`, for a card in a tree that stands for /sys.
    fn level(cid: [&str; 4], cache: &str) -> Level {
        let tree = Tree::new();
        let [name, manfid, oemid, date] = cid;
        for (file, content) in [
            ("device/name", name),
            ("device/manfid", manfid),
            ("device/oemid", oemid),
            ("device/date", date),
            ("queue/write_cache", cache),
        ] {
            tree.file(
                &format!("/sys/block/mmcblk0/{file}"),
                &format!("{content}\n"),
            );
        }
        let findings = look(&Device {
            node: "/dev/mmcblk0p4".into(),
            sys: tree.0.at("/sys/block/mmcblk0/mmcblk0p4"),
            disk: tree.0.at("/sys/block/mmcblk0"),
        });
        assert!(findings[0].text.contains(name), "{findings:?}");
        assert_eq!(findings[1].level, Level::Ok);
        findings[0].level
    }

    #[test]
    fn cards_that_do_not_empty_their_cache_are_known() {
        for cid in [
            ["SD64G", "0x00009f", "0x5449", "11/2019"],
            ["ASTC", "0x000012", "0x3456", "02/2022"],
            ["SD128", "0x00009f", "0x5449", "07/2021"],
            ["EE8QT", "0x00001b", "0x534d", "03/2023"],
            ["SN64G", "0x000003", "0x5344", "10/2020"],
        ] {
            assert_eq!(level(cid, "write back"), Level::Warning, "{cid:?}");
            assert_eq!(level(cid, "write through"), Level::Ok, "{cid:?}");
        }
    }

    #[test]
    fn other_cards_of_the_same_makers_are_not_accused() {
        for cid in [
            ["SD64G", "0x00009f", "0x5449", "05/2023"],
            ["SD64G", "0x00009f", "0x5448", "11/2019"],
            ["ASTC", "0x000012", "0x3456", "03/2022"],
            ["OTHER", "0x000012", "0x3456", "02/2022"],
            ["SN64G", "0x000003", "0x5344", "01/2021"],
        ] {
            assert_eq!(level(cid, "write back"), Level::Ok, "{cid:?}");
        }
    }

    #[test]
    fn what_is_no_card_has_no_identity() {
        let tree = Tree::new();
        assert_eq!(identity(&tree.0.at("/sys/block/loop0/device")), None);
        tree.file("/sys/block/sda/device/name", "a disk");
        assert_eq!(identity(&tree.0.at("/sys/block/sda/device")), None);
    }
}
