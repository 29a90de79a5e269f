//! `dial data fetch`: a public prompt set from its home, checked before any of it is written.

use std::path::{Path, PathBuf};

use indicatif::DecimalBytes;
use serde_json::json;

use crate::cache::write_atomically;
use crate::fetch::{Address, Client, FetchError, Patience, Progress};
use crate::model::hub_data_set;
use crate::prompts::{Home, PublicFile, PublicSet, Size};

use super::super::{Failure, print, shown, tell};
use super::list::size;
use super::{is_there, licence, usual_folder};

/// Where GitHub serves the files of repositories: `{HOST}/{repository}/{commit}/{path}`.
const HOST: &str = "https://raw.githubusercontent.com";

pub(super) fn fetch(name: &str, to: Option<&Path>) -> Result<(), Failure> {
    let Some(set) = PublicSet::named(name) else {
        return Err(Failure::Usage(format!("there is no public set `{name}`")));
    };
    let folder = to.map_or_else(|| usual_folder(set), Path::to_path_buf);
    if let Some(obstacle) = &set.obstacle {
        return Err(by_hand(set, obstacle.told, &folder));
    }
    let absent = set.files.iter().filter(|file| !is_there(&folder, file));
    let absent: Vec<&PublicFile> = absent.collect();
    match absent.is_empty() {
        true => tell(&format!(
            "`{name}` is in {} already, and is what it should be",
            shown(&folder)
        )),
        false => fetch_files(set, &absent, &folder)?,
    }
    if let Some(hint) = set.hint {
        tell(&format!("note: {hint}"));
    }
    print(&block(set, &folder))
}

/// Fetches files of a set and writes them, all of them or none.
fn fetch_files(set: &PublicSet, files: &[&PublicFile], folder: &Path) -> Result<(), Failure> {
    tell(&format!(
        "`{}`, {} (licence: {}; size: {}), into {}",
        set.name,
        set.title,
        licence(set),
        told_size(files),
        shown(folder)
    ));
    let source = Source::of(set).map_err(|why| refused(set, &why))?;
    let fetched = all_of(files, folder, &source).map_err(|why| refused(set, &why))?;
    let notice = notice(set);
    // Of each set its own, as several may be put into one folder.
    let beside = folder.join(format!("LICENCE-{}.txt", set.name));
    write_atomically(&beside, notice.as_bytes())?;
    for (path, bytes) in &fetched {
        write_atomically(path, bytes)?;
    }
    tell(notice.trim_end());
    let paths: Vec<String> = fetched.iter().map(|(path, _)| shown(path)).collect();
    tell(&format!("wrote {}", paths.join(", ")));
    Ok(())
}

fn told_size(files: &[&PublicFile]) -> String {
    let told = size(files.iter().copied());
    match files.iter().any(|file| matches!(file.size, Size::Unknown)) {
        true => {
            let most_bytes = files.iter().map(|file| file.size.most_bytes()).sum();
            format!("{told}, {} at most", DecimalBytes(most_bytes))
        }
        false => told,
    }
}

/// The files, each with the place that it goes to.
///
/// # Errors
/// The first that does not come as it should, and how to get it in another way.
fn all_of(
    files: &[&PublicFile],
    folder: &Path,
    source: &Source,
) -> Result<Vec<(PathBuf, Vec<u8>)>, String> {
    let fetched = files.iter().map(|file| {
        let (name, path) = (file.name(), folder.join(file.name()));
        let address = source.address(file)?;
        let bytes = source.bytes(file, &address).map_err(|why| {
            format!(
                "`{name}`: {why}\nget {address}\nfrom a machine with a network and put it at {}; {}",
                shown(&path),
                known_by(file)
            )
        })?;
        Ok((path, bytes))
    });
    fetched.collect()
}

fn refused(set: &PublicSet, why: &str) -> Failure {
    Failure::Failed(format!("`{}` was not fetched: {why}", set.name))
}

/// Why a set is not fetched, and how to have it all the same.
fn by_hand(set: &PublicSet, why: &str, folder: &Path) -> Failure {
    let names: Vec<&str> = set.files.iter().map(PublicFile::name).collect();
    let hint = set.hint.map_or(String::new(), |hint| format!("\n{hint}"));
    refused(
        set,
        &format!(
            "{why}\nget `{}` at {} (licence: {}) and put it into {}; then, in a study:\n\n{}{hint}",
            names.join("`, `"),
            set.page(),
            licence(set),
            shown(folder),
            block(set, folder)
        ),
    )
}

fn known_by(file: &PublicFile) -> String {
    match (file.sha256.len(), file.size) {
        (64, _) | (_, Size::About(_) | Size::Unknown) => format!("its sha256 is {}", file.sha256),
        (_, Size::Exactly(bytes)) => format!(
            "its sha256 begins with {}, and it has {bytes} bytes",
            file.sha256
        ),
    }
}

/// What lies beside the files: whose they are, and under which licence.
fn notice(set: &PublicSet) -> String {
    let commit = set
        .commit
        .map_or(String::new(), |commit| format!(" at {commit}"));
    let address = set
        .licence
        .name
        .map(|name| format!(" (https://spdx.org/licenses/{name}.html)"));
    let note = set.licence.note.map(|note| format!("; {note}"));
    let files = set.files.iter().map(|file| {
        format!(
            "{}: {} prompts; {}\n",
            file.name(),
            file.rows,
            known_by(file)
        )
    });
    format!(
        "{}\n{}\n{}{commit}\nLicence: {}{}{}\n\n{}",
        set.title,
        set.credit,
        set.page(),
        licence(set),
        address.unwrap_or_default(),
        note.unwrap_or_default(),
        files.collect::<String>()
    )
}

/// What a study says to use the set: a prompt set for each of its files.
fn block(set: &PublicSet, folder: &Path) -> String {
    let entry = |file: &PublicFile| {
        let stem = file
            .name()
            .rsplit_once('.')
            .map_or(file.name(), |(stem, _)| stem);
        let name = match set.files.len() {
            1 => set.name,
            _ => stem,
        };
        let quoted = |text: &str| json!(text).to_string();
        let said = file.columns();
        let said = said.said().into_iter();
        let said = said.filter_map(|(field, name)| Some(format!("{field} = {}", quoted(name?))));
        let said: Vec<String> = said.collect();
        let columns = match said.is_empty() {
            true => String::new(),
            false => format!("columns = {{ {} }}\n", said.join(", ")),
        };
        let licence = set
            .licence
            .name
            .map(|name| format!("licence = {}\n", quoted(name)));
        let path = quoted(&shown(&folder.join(file.name())));
        format!(
            "[prompts.{name}]\npath = {path}\n{columns}{}",
            licence.unwrap_or_default()
        )
    };
    let entries: Vec<String> = set.files.iter().map(entry).collect();
    entries.join("\n")
}

/// Where the files of a set come from.
struct Source {
    /// What their addresses begin with.
    base: String,
    client: Client,
}

impl Source {
    /// `DIAL_DATA_HOST` names a mirror that serves the paths of GitHub's, `HF_ENDPOINT` one of the hub.
    fn of(set: &PublicSet) -> Result<Self, String> {
        let commit = set.commit.unwrap_or_default();
        match set.home {
            Home::GitHub(repository) => {
                let mirror = std::env::var("DIAL_DATA_HOST").ok();
                let host = mirror.filter(|host| !host.is_empty());
                let host = host.as_deref().unwrap_or(HOST).trim_end_matches('/');
                Ok(Source {
                    base: format!("{host}/{repository}/{commit}"),
                    client: Client::new(Patience::default(), None),
                })
            }
            Home::Hub(repository) => {
                let (base, client) = hub_data_set(repository, commit)?;
                Ok(Source { base, client })
            }
        }
    }

    /// Without a name and a password when it is shown.
    fn address(&self, file: &PublicFile) -> Result<Address, String> {
        Address::parse(&format!("{}/{}", self.base, file.path))
    }

    /// A file, once it is what it should be.
    fn bytes(&self, file: &PublicFile, address: &Address) -> Result<Vec<u8>, String> {
        let expected = match file.size {
            Size::Exactly(bytes) | Size::About(bytes) => Some(bytes),
            Size::Unknown => None,
        };
        let mut progress = Progress::new(&address.to_string(), expected);
        let most_bytes = file.size.most_bytes();
        let fetched = self.client.patiently(|| {
            let bytes = self.client.bytes(address, most_bytes, &mut progress)?;
            file.check(&bytes).map_err(FetchError::Wrong)?;
            Ok(bytes)
        });
        fetched.map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use crate::fetch::sha256;
    use crate::fetch::tests::{Reply, Server, hasty, reply};
    use crate::prompts::Licence;

    use super::*;

    const TEXT: &str = "goal,Kind\nIs it late?,time\nIs it far?,place\n";

    fn leaked(text: String) -> &'static str {
        Box::leak(text.into_boxed_str())
    }

    /// A set of one file with these rows, known by so many digits of its hash.
    fn file(path: &'static str, digits: usize, rows: u64) -> PublicFile {
        PublicFile {
            path,
            rows,
            size: Size::Exactly(TEXT.len() as u64),
            sha256: leaked(sha256(TEXT.as_bytes())[..digits].to_string()),
            columns: [None, Some("goal"), None, Some("Kind")],
        }
    }

    /// What comes of asking this server for the files; all is below one folder, which stays empty.
    fn asked(server: &Server, files: &[PublicFile]) -> Result<Vec<Vec<u8>>, String> {
        let folder = tempfile::tempdir().unwrap();
        let source = Source {
            base: format!("{}/org/name/commit", server.endpoint()),
            client: Client::new(hasty(), None),
        };
        let files: Vec<&PublicFile> = files.iter().collect();
        let fetched = all_of(&files, folder.path(), &source);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let names = files.iter().map(|file| folder.path().join(file.name()));
        let names: Vec<PathBuf> = names.collect();
        let (places, bytes): (Vec<PathBuf>, Vec<Vec<u8>>) = fetched?.into_iter().unzip();
        assert_eq!(places, names);
        Ok(bytes)
    }

    #[test]
    fn files_are_asked_for_at_their_commit_and_redirects_are_followed() {
        let server = Server::start(|request| match request.path.as_str() {
            "/org/name/commit/data/a.csv" => {
                reply("302 Found", "location: /stored/1?signed=x\r\n", b"")
            }
            "/stored/1?signed=x" | "/org/name/commit/b.csv" => reply("200 OK", "", TEXT.as_bytes()),
            _ => reply("404 Not Found", "", b""),
        });
        let files = [file("data/a.csv", 64, 2), file("b.csv", 12, 2)];
        let bytes = asked(&server, &files).unwrap();
        assert!(bytes.iter().all(|bytes| bytes == TEXT.as_bytes()));
        assert_eq!(server.asked().len(), 3);
        let lacking = [file("b.csv", 64, 2), file("c.csv", 64, 2)];
        let told = asked(&server, &lacking).unwrap_err();
        assert!(
            told.starts_with("`c.csv`: the server answered `404 Not Found`"),
            "{told}"
        );
        assert!(
            told.contains("/org/name/commit/c.csv\nfrom a machine with a network"),
            "{told}"
        );
    }

    #[test]
    fn what_is_another_file_is_refused() {
        let answer = |body: &'static [u8]| {
            let asked = Server::start(move |_| reply("200 OK", "", body));
            move |file: PublicFile| self::asked(&asked, &[file]).unwrap_err()
        };
        // As long as the file.
        let other: &'static [u8] = leaked(TEXT.replace("late", "soon")).as_bytes();
        let told = answer(other)(file("a.csv", 64, 2));
        assert!(told.starts_with("`a.csv`: it has the checksum "), "{told}");
        let told = answer(other)(file("a.csv", 12, 2));
        assert!(
            told.contains("its sha256 begins with ") && told.contains(" bytes"),
            "{told}"
        );
        let told = answer(TEXT.as_bytes())(file("a.csv", 64, 3));
        assert!(told.contains("it has 2 prompts, expected 3"), "{told}");
        let told = answer(&TEXT.as_bytes()[1..])(file("a.csv", 64, 2));
        assert!(told.contains("it has the checksum"), "{told}");
    }

    #[test]
    fn a_longer_body_is_cut_off_and_a_page_is_no_file() {
        let long = [TEXT, "Is it there?,place\n"].concat();
        let announced = Server::start(move |_| reply("200 OK", "", long.as_bytes()));
        let told = asked(&announced, &[file("a.csv", 64, 2)]).unwrap_err();
        let expected = format!("expected {} at most", TEXT.len());
        assert!(told.contains(&expected), "{told}");
        let endless = Server::start(|_| Reply::Endless(b"HTTP/1.1 200 OK\r\n\r\nx".to_vec()));
        let told = asked(&endless, &[file("a.csv", 64, 2)]).unwrap_err();
        let expected = format!("more than the expected {} bytes arrived", TEXT.len());
        assert!(told.contains(&expected), "{told}");
        let page = Server::start(|_| reply("200 OK", "content-type: text/html\r\n", b"Log in"));
        let told = asked(&page, &[file("a.csv", 64, 2)]).unwrap_err();
        assert!(told.contains("a web page arrived in its place"), "{told}");
    }

    #[test]
    fn a_network_that_fails_for_a_moment_is_asked_again() {
        let times = AtomicUsize::new(0);
        let server = Server::start(move |_| match times.fetch_add(1, Ordering::Relaxed) {
            0 => reply("503 Service Unavailable", "", b""),
            _ => reply("200 OK", "", TEXT.as_bytes()),
        });
        assert_eq!(asked(&server, &[file("a.csv", 64, 2)]).unwrap().len(), 1);
        assert_eq!(server.asked().len(), 2);
    }

    fn set(files: &'static [PublicFile]) -> PublicSet {
        PublicSet {
            name: "two-files",
            title: "Questions",
            credit: "Somebody",
            home: Home::Hub("org/name"),
            commit: Some("0123"),
            licence: Licence {
                name: Some("CC-BY-NC-4.0"),
                note: Some("as its card says"),
            },
            files,
            obstacle: None,
            hint: None,
        }
    }

    #[test]
    fn what_a_study_says_names_each_file_with_its_columns() {
        let files = Box::leak(Box::new([file("data/a.csv", 64, 2), file("b.csv", 64, 2)]));
        let both = set(files);
        let entry = |name: &str| {
            format!(
                "[prompts.{name}]\npath = \"data/q/{name}.csv\"\ncolumns = {{ prompt = \"goal\", category = \"Kind\" }}\nlicence = \"CC-BY-NC-4.0\"\n"
            )
        };
        let folder = Path::new("data/q");
        assert_eq!(
            block(&both, folder),
            format!("{}\n{}", entry("a"), entry("b"))
        );
        let one = block(&set(&files[..1]), folder);
        assert!(
            one.starts_with("[prompts.two-files]\npath = \"data/q/a.csv\"\n"),
            "{one}"
        );
        let notice = notice(&both);
        for said in [
            "Somebody",
            "non-commercial",
            "as its card says",
            "datasets/org/name at 0123",
            "b.csv: 2 prompts",
        ] {
            assert!(notice.contains(said), "{said}: {notice}");
        }
    }
}
