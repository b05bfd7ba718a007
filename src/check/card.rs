//! The SD card: its identity, and whether its write cache is known to be broken.

use std::ops::RangeInclusive;
use std::path::Path;

use super::device::Device;
use super::finding::{Finding, Id};
use super::host::read_line;
use crate::escape::{escape, escape_path};

/// The card identification register (CID), as sysfs shows it.
#[derive(Debug, PartialEq)]
struct Identity {
    name: String,
    manfid: String,
    oemid: String,
    /// Year and month.
    date: (u32, u32),
}

/// Cards that do not flush their write cache when the kernel tells them to.
struct BrokenCacheCard {
    model: &'static str,
    manfid: &'static str,
    oemid: &'static str,
    /// `None`: any.
    name: Option<&'static str>,
    dates: RangeInclusive<(u32, u32)>,
}

/// The cards whose cache the Raspberry Pi's kernel (rpi-6.12.y) leaves off: those with
/// MMC_QUIRK_BROKEN_SD_CACHE in drivers/mmc/core/quirks.h. Linux itself lists only some of them.
const BROKEN_CACHE_CARDS: [BrokenCacheCard; 4] = [
    BrokenCacheCard {
        model: "Kingston Canvas Go! Plus of 2019 to 2022",
        manfid: "0x00009f",
        oemid: "0x5449",
        name: None,
        dates: (2019, 1)..=(2022, 12),
    },
    BrokenCacheCard {
        model: "Gigastone Gaming Plus of 02/2022",
        manfid: "0x000012",
        oemid: "0x3456",
        name: Some("ASTC"),
        dates: (2022, 2)..=(2022, 2),
    },
    BrokenCacheCard {
        model: "Samsung Pro Plus and Evo Plus of 2023",
        manfid: "0x00001b",
        oemid: "0x534d",
        name: None,
        dates: (2023, 1)..=(2023, 12),
    },
    BrokenCacheCard {
        model: "SanDisk Extreme (A2) of 2019 and 2020",
        manfid: "0x000003",
        oemid: "0x5344",
        name: None,
        dates: (2019, 1)..=(2020, 12),
    },
];

impl BrokenCacheCard {
    fn matches(&self, card: &Identity) -> bool {
        (self.manfid, self.oemid) == (&*card.manfid, &*card.oemid)
            && self.name.is_none_or(|name| name == card.name)
            && self.dates.contains(&card.date)
    }
}

pub(super) fn check(device: &Device) -> Finding {
    let cached = read_line(&device.disk.join("queue/write_cache")).map(|word| word == "write back");
    let cache = match cached {
        Some(true) => "with a write cache, flushed before `pst run` returns",
        Some(false) => "without a write cache in use",
        None => "/sys does not show whether it has a write cache",
    };
    let Some(card) = identity(&device.disk.join("device")) else {
        let node = escape_path(&device.node);
        return Id::Card.ok(format!("{node} is not an SD card; {cache}"));
    };
    let (year, month) = card.date;
    let Identity { manfid, oemid, .. } = &card;
    let name = escape(&card.name);
    let shown = format!("{name} (maker {manfid}, {oemid}) of {month:02}/{year}");
    let broken = BROKEN_CACHE_CARDS.iter().find(|known| known.matches(&card));
    let Some(BrokenCacheCard { model, .. }) = broken else {
        return Id::Card.ok(format!("{shown}, {cache}"));
    };
    let text = format!("{shown}: {model} are known not to flush their write cache");
    match cached {
        Some(false) => Id::Card.ok(format!("{text}, but it is not in use")),
        _ => Id::Card.warning(
            format!("{text}: a power cut can lose data that `pst run` reported as safe"),
            "replace the card, or run a kernel that leaves its cache off",
        ),
    }
}

/// `None` if it is not an SD or MMC card.
fn identity(device: &Path) -> Option<Identity> {
    let date = read_line(&device.join("date"))?;
    let (month, year) = date.split_once('/')?;
    Some(Identity {
        name: read_line(&device.join("name"))?,
        manfid: read_line(&device.join("manfid"))?,
        oemid: read_line(&device.join("oemid"))?,
        date: (year.parse().ok()?, month.parse().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::super::host::tests::Tree;
    use super::*;

    /// The level for a card in a tree that stands for /sys.
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
        let found = check(&Device {
            node: "/dev/mmcblk0p4".into(),
            sys: tree.0.at("/sys/block/mmcblk0/mmcblk0p4"),
            disk: tree.0.at("/sys/block/mmcblk0"),
        });
        assert!(found.text.contains(name), "{found:?}");
        found.level
    }

    #[test]
    fn cards_with_a_broken_cache_are_known() {
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
    fn other_disks_have_no_identity() {
        let tree = Tree::new();
        assert_eq!(identity(&tree.0.at("/sys/block/loop0/device")), None);
        tree.file("/sys/block/sda/device/name", "a disk");
        assert_eq!(identity(&tree.0.at("/sys/block/sda/device")), None);
    }
}
