//! The shell on real directories.

use std::{fs::OpenOptions, io::Write};

use tempfile::TempDir;

use super::*;
use crate::{
    model::{Change, ObjectName},
    source::manifests::Cluster,
};

/// A source of a directory of its own.
struct Watched {
    root: TempDir,
    batches: mpsc::Receiver<Batch>,
}

impl Watched {
    fn start(root: TempDir) -> Self {
        let (out, batches) = mpsc::channel(1);
        let options = Options {
            dir: root.path().join("manifests"),
            state_dir: Some(root.path().join("state")),
            cluster: Cluster {
                node_name: "n1".to_owned(),
                cluster_ranges: vec!["10.96.0.0/16".parse().unwrap()],
                node_ports: 30_000..=32_767,
            },
        };
        tokio::spawn(watch(options, out));
        Self { root, batches }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join("manifests").join(name)
    }

    async fn batch(&mut self) -> Batch {
        let batch = timeout(Duration::from_secs(20), self.batches.recv()).await;
        batch.expect("no batch came").unwrap()
    }

    /// The next batch that changes objects: each Service and the first port it has left.
    async fn services(&mut self) -> Vec<(String, Option<u16>)> {
        loop {
            let batch = self.batch().await;
            let services = batch.changes.into_iter().filter_map(|change| match change {
                Change::Service(ObjectName { name, .. }, service) => {
                    Some((name, service.map(|service| service.ports[0].port)))
                }
                Change::Slice(..)
                | Change::Node(_)
                | Change::ServiceNetworks(_)
                | Change::Pod(..) => None,
            });
            let services: Vec<_> = services.collect();
            if !services.is_empty() {
                return services;
            }
        }
    }
}

fn with_directory() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("manifests")).unwrap();
    root
}

fn service(name: &str, port: u16) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{ports: [{{port: {port}}}]}}}}\n"
    )
}

fn is(name: &str, port: u16) -> (String, Option<u16>) {
    (name.to_owned(), Some(port))
}

#[tokio::test]
async fn an_empty_directory_is_a_complete_batch() {
    let mut watched = Watched::start(with_directory());
    assert_eq!(watched.batch().await, Batch::default());
}

#[tokio::test]
async fn changes_are_followed() {
    let mut watched = Watched::start(with_directory());
    watched.batch().await;
    fs::write(watched.path("a.yaml"), service("a", 80)).unwrap();
    assert_eq!(watched.services().await, [is("a", 80)]);
    fs::write(watched.path(".a.tmp"), service("a", 81)).unwrap();
    fs::rename(watched.path(".a.tmp"), watched.path("a.yaml")).unwrap();
    assert_eq!(watched.services().await, [is("a", 81)]);
    fs::remove_file(watched.path("a.yaml")).unwrap();
    assert_eq!(watched.services().await, [("a".to_owned(), None)]);
}

#[tokio::test]
async fn a_file_is_read_when_its_writer_is_done() {
    let root = with_directory();
    let path = root.path().join("manifests/a.yaml");
    fs::write(&path, service("a", 80)).unwrap();
    let mut watched = Watched::start(root);
    assert_eq!(watched.services().await, [is("a", 80)]);
    let mut file = OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(&path)
        .unwrap();
    sleep(QUIET * 10).await;
    file.write_all(service("a", 81).as_bytes()).unwrap();
    drop(file);
    // Not gone in between.
    assert_eq!(watched.services().await, [is("a", 81)]);
}

#[tokio::test]
async fn a_directory_that_vanishes_takes_nothing_along() {
    let root = with_directory();
    fs::write(root.path().join("manifests/a.yaml"), service("a", 80)).unwrap();
    let mut watched = Watched::start(root);
    assert_eq!(watched.services().await, [is("a", 80)]);
    fs::remove_dir_all(watched.path("")).unwrap();
    let vanished = watched.batch().await;
    assert_eq!(vanished.changes, []);
    assert_eq!(vanished.problems.len(), 1);
    fs::create_dir(watched.path("")).unwrap();
    let content = service("a", 80) + &service("b", 80);
    fs::write(watched.path("a.yaml"), content).unwrap();
    assert_eq!(watched.services().await, [is("b", 80)]);
    // The new directory is watched like the first.
    fs::write(watched.path("b.yaml"), service("c", 80)).unwrap();
    assert_eq!(watched.services().await, [is("c", 80)]);
}

#[tokio::test]
async fn a_directory_that_was_never_seen_says_nothing_of_what_is_in_force() {
    let mut watched = Watched::start(tempfile::tempdir().unwrap());
    let first = watched.batch().await;
    assert_eq!((first.changes.len(), first.problems.len()), (0, 1));
    assert!(first.unseen);
    fs::create_dir(watched.path("")).unwrap();
    let empty = watched.batch().await;
    assert_eq!(empty, Batch::default());
    fs::write(watched.path("a.yaml"), service("a", 80)).unwrap();
    assert_eq!(watched.services().await, [is("a", 80)]);
}

#[tokio::test]
async fn a_directory_that_vanishes_before_a_restart_is_remembered() {
    let root = with_directory();
    fs::write(root.path().join("manifests/a.yaml"), service("a", 80)).unwrap();
    let mut watched = Watched::start(root);
    let before = watched.batch().await;
    let Watched { root, batches } = watched;
    drop(batches);
    fs::remove_dir_all(root.path().join("manifests")).unwrap();
    let after = Watched::start(root).batch().await;
    assert_eq!((after.changes, after.unseen), (before.changes, false));
    assert_eq!(after.problems.len(), 1);
}

#[tokio::test]
async fn allocations_survive_a_restart_and_are_saved_before_they_are_sent() {
    let root = with_directory();
    fs::write(root.path().join("manifests/a.yaml"), service("a", 80)).unwrap();
    let mut watched = Watched::start(root);
    let before = watched.batch().await;
    let saved = fs::read_to_string(watched.root.path().join("state/allocations.json"));
    assert!(saved.unwrap().contains("default/a"));
    let Watched { root, batches } = watched;
    drop(batches);
    let mut watched = Watched::start(root);
    assert_eq!(watched.batch().await, before);
}

#[tokio::test]
async fn what_is_bad_after_a_restart_is_as_it_was() {
    let root = with_directory();
    fs::write(root.path().join("manifests/a.yaml"), service("a", 80)).unwrap();
    fs::write(root.path().join("manifests/b.yaml"), service("b", 80)).unwrap();
    let mut watched = Watched::start(root);
    let mut expected = watched.batch().await;
    let Watched { root, batches } = watched;
    drop(batches);
    fs::write(root.path().join("manifests/a.yaml"), "{").unwrap();
    let mut watched = Watched::start(root);
    let batch = watched.batch().await;
    assert_eq!(batch.problems.len(), 1);
    expected.problems.clone_from(&batch.problems);
    assert_eq!(batch, expected);
}

#[tokio::test]
async fn a_corrupt_state_file_is_a_problem_only() {
    let root = with_directory();
    fs::write(root.path().join("manifests/a.yaml"), service("a", 80)).unwrap();
    fs::create_dir(root.path().join("state")).unwrap();
    fs::write(root.path().join("state/allocations.json"), "{").unwrap();
    let mut watched = Watched::start(root);
    let batch = watched.batch().await;
    assert_eq!((batch.changes.len(), batch.problems.len()), (1, 1));
}
