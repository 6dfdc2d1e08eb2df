//! A log file: appended to, rotated by size or day, and opened anew when somebody else moved it away.
//!
//! Only whole lines stay in it: what a full disk cut off is taken back, so that the next line begins where a
//! line begins. The disk is tried again with every batch. A rotation that fails is said once, and the file
//! grows on: a line in too long a file is better than none.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::queue::split;
use super::sink::{Health, write_out};
use crate::clock::Clock;

/// Who may read a log file, where the settings don't say.
pub const DEFAULT_MODE: u32 = 0o640;

/// How many files there are in all, where the settings don't say.
pub const DEFAULT_FILES: usize = 5;

const SECONDS_PER_DAY: u64 = 86_400;

/// A log file, and when it is rotated.
#[derive(Clone, Debug)]
pub struct FileSettings {
    /// Its path; earlier files are `PATH.1`, `PATH.2` and so on.
    pub path: PathBuf,
    /// The permissions of a file that is made.
    pub mode: u32,
    /// It grows no larger, in bytes.
    pub max_bytes: Option<u64>,
    /// Whether each day (UTC) has a file of its own.
    pub daily: bool,
    /// How many files are kept, this one among them.
    pub max_files: usize,
}

impl FileSettings {
    pub(super) const fn plain(path: PathBuf) -> Self {
        let (mode, max_files) = (DEFAULT_MODE, DEFAULT_FILES);
        Self { path, mode, max_bytes: None, daily: false, max_files }
    }

    fn numbered(&self, number: usize) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }
}

/// The file, as long as it can be written.
#[derive(Debug)]
pub(super) struct LogFile {
    settings: FileSettings,
    clock: Clock,
    open: Option<Open>,
    is_rotation_failing: bool,
}

#[derive(Debug)]
struct Open {
    file: File,
    id: Id,
    /// The day, counted from 1970, of what is in it.
    day: u64,
}

/// Which file it is, by whatever name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Id {
    device: u64,
    inode: u64,
}

/// What stopped lines from being written, and how many bytes of them were.
struct Stopped {
    error: io::Error,
    kept: usize,
}

impl LogFile {
    /// Opens the file, or makes it.
    pub(super) fn open(settings: FileSettings, clock: Clock) -> io::Result<Self> {
        let open = Some(Open::at(&settings)?);
        Ok(Self { settings, clock, open, is_rotation_failing: false })
    }

    /// How many bytes of `lines` were written, whole lines all.
    pub(super) fn write(&mut self, lines: &[u8], health: &mut Health) -> usize {
        let mut written = 0;
        while let Some(rest) = lines.get(written..).filter(|rest| !rest.is_empty()) {
            match self.write_some(rest) {
                Ok(more) => written += more,
                Err(Stopped { error, kept }) => {
                    health.fails(&format_args!("`{}`: {error}", self.settings.path.display()));
                    return written + kept;
                }
            }
        }
        health.works();
        written
    }

    /// Writes as many of `lines` as the file has room for, one at least; how many bytes.
    fn write_some(&mut self, lines: &[u8]) -> Result<usize, Stopped> {
        let nothing = |error| Stopped { error, kept: 0 };
        let max_bytes = self.settings.max_bytes;
        let (file, size) = self.current(lines).map_err(nothing)?;
        let room = max_bytes.map_or(u64::MAX, |max| max.saturating_sub(size));
        let (lines, _) = split(lines, usize::try_from(room).unwrap_or(usize::MAX));
        let (written, outcome) = write_out(file, lines);
        let Err(error) = outcome else { return Ok(written) };
        let part = lines.get(..written).unwrap_or_default();
        let kept = memchr::memrchr(b'\n', part).map_or(0, |end| end + 1);
        // It can't be taken back where it is no file.
        let _ = file.set_len(size + u64::try_from(kept).unwrap_or_default());
        Err(Stopped { error, kept })
    }

    /// The file that `lines` go to, and its size.
    fn current(&mut self, lines: &[u8]) -> io::Result<(&mut File, u64)> {
        let is_ours =
            self.open.as_ref().is_some_and(|open| Id::at(&self.settings.path) == Some(open.id));
        if !is_ours {
            self.open = None;
        }
        let today = self.clock.now().seconds() / SECONDS_PER_DAY;
        if let Some(open) = &self.open
            && open.is_over(&self.settings, lines, today)?
        {
            let rotated = self.rotate();
            self.say(rotated);
        }
        let open = match self.open.take() {
            Some(open) => open,
            None => Open::at(&self.settings)?,
        };
        let open = self.open.insert(open);
        let size = open.file.metadata()?.len();
        if size == 0 {
            open.day = today;
        }
        Ok((&mut open.file, size))
    }

    fn rotate(&mut self) -> io::Result<()> {
        let settings = &self.settings;
        for number in (1..settings.max_files.saturating_sub(1)).rev() {
            move_if_there(&settings.numbered(number), &settings.numbered(number + 1))?;
        }
        move_if_there(&settings.path, &settings.numbered(1))?;
        self.open = None;
        Ok(())
    }

    fn say(&mut self, rotated: io::Result<()>) {
        let was_failing = std::mem::replace(&mut self.is_rotation_failing, rotated.is_err());
        if let (Err(error), false) = (rotated, was_failing) {
            let path = self.settings.path.display();
            tracing::error!(%path, %error, "the decision log could not be rotated: it grows on");
        }
    }
}

impl Open {
    fn at(settings: &FileSettings) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.create(true).append(true).mode(settings.mode).open(&settings.path)?;
        let metadata = file.metadata()?;
        let day = u64::try_from(metadata.mtime()).unwrap_or_default() / SECONDS_PER_DAY;
        Ok(Self { file, id: Id::of(&metadata), day })
    }

    /// Whether `lines` belong into another file.
    fn is_over(&self, settings: &FileSettings, lines: &[u8], today: u64) -> io::Result<bool> {
        let metadata = self.file.metadata()?;
        let size = metadata.len();
        if size == 0 || !metadata.is_file() {
            return Ok(false);
        }
        let (first, _) = split(lines, 1);
        let with_one = size + u64::try_from(first.len()).unwrap_or_default();
        let is_long = settings.max_bytes.is_some_and(|max| with_one > max);
        Ok(is_long || (settings.daily && self.day < today))
    }
}

impl Id {
    fn at(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|metadata| Self::of(&metadata))
    }

    fn of(metadata: &fs::Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

fn move_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        moved => moved,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::super::queue::count;
    use super::*;
    use crate::clock::Timestamp;
    use crate::fixture::NOW;
    use crate::metrics::Metrics;

    struct World {
        folder: tempfile::TempDir,
        log: LogFile,
        health: Health,
        /// How many lines were not written.
        lost: u64,
    }

    impl World {
        fn new(change: impl FnOnce(&mut FileSettings)) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let mut settings = FileSettings::plain(folder.path().join("log"));
            change(&mut settings);
            let log = LogFile::open(settings, Clock::Fixed(NOW)).unwrap();
            Self { folder, log, health: Health::new(Metrics::new()), lost: 0 }
        }

        fn write(&mut self, lines: &str) {
            let written = self.log.write(lines.as_bytes(), &mut self.health);
            self.lost += count(&lines.as_bytes()[written..]);
        }

        fn file(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn read(&self, name: &str) -> String {
            fs::read_to_string(self.file(name)).unwrap()
        }

        fn names(&self) -> Vec<String> {
            let names = fs::read_dir(self.folder.path()).unwrap();
            let mut names: Vec<_> =
                names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }
    }

    #[test]
    fn it_is_rotated_by_size_and_only_so_many_files_are_kept() {
        let mut world = World::new(|settings| {
            settings.max_bytes = Some(8);
            settings.max_files = 3;
        });
        world.write("one\ntwo\nthree\nfour\nfive\n");
        assert_eq!(world.names(), ["log", "log.1", "log.2"]);
        assert_eq!(
            ["log", "log.1", "log.2"].map(|name| world.read(name)),
            ["five\n", "four\n", "three\n"]
        );
        world.write("a line that is longer than any file\n");
        assert_eq!(world.read("log"), "a line that is longer than any file\n");
        assert_eq!(world.lost, 0);
    }

    #[test]
    fn each_day_has_a_file_of_its_own() {
        let mut world = World::new(|settings| settings.daily = true);
        world.write("one\n");
        world.write("two\n");
        world.log.clock = Clock::Fixed(Timestamp::from_seconds(NOW.seconds() + SECONDS_PER_DAY));
        world.write("three\n");
        assert_eq!(
            (world.read("log.1"), world.read("log")),
            ("one\ntwo\n".into(), "three\n".into())
        );
    }

    #[test]
    fn one_that_was_moved_away_or_emptied_is_begun_anew() {
        let mut world = World::new(|_| {});
        world.write("one\n");
        fs::rename(world.file("log"), world.file("log.old")).unwrap();
        world.write("two\n");
        assert_eq!((world.read("log.old"), world.read("log")), ("one\n".into(), "two\n".into()));
        File::create(world.file("log")).unwrap();
        world.write("three\n");
        assert_eq!(world.read("log"), "three\n");
        fs::remove_file(world.file("log")).unwrap();
        world.write("four\n");
        assert_eq!(world.read("log"), "four\n");
    }

    #[test]
    fn only_those_who_are_meant_to_may_read_it() {
        for mode in [DEFAULT_MODE, 0o600] {
            let world = World::new(|settings| settings.mode = mode);
            let found = fs::metadata(world.file("log")).unwrap().permissions().mode();
            assert_eq!(found & 0o777 & !mode, 0);
        }
    }

    #[test]
    fn a_full_disk_loses_lines_and_what_comes_after_is_written() {
        let mut world = World::new(|settings| {
            fs::remove_file(&settings.path).ok();
            symlink("/dev/full", &settings.path).unwrap();
        });
        world.write("one\ntwo\n");
        assert_eq!(world.lost, 2);
        fs::remove_file(world.file("log")).unwrap();
        world.write("three\n");
        assert_eq!((world.read("log"), world.lost), ("three\n".into(), 2));
    }

    #[test]
    fn a_rotation_that_fails_loses_nothing() {
        let mut world = World::new(|settings| {
            settings.max_bytes = Some(4);
            settings.max_files = 2;
        });
        fs::create_dir(world.file("log.1")).unwrap();
        world.write("one\n");
        world.write("two\n");
        assert_eq!((world.read("log"), world.lost), ("one\ntwo\n".into(), 0));
    }
}
