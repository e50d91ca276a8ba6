//! Asynchronous work inside a network namespace.

use std::future::Future;

use anyhow::{Context, Result};
use tokio::{
    runtime::{Builder, Runtime},
    task::JoinHandle,
};

use crate::netns::Netns;

/// Threads that are inside a namespace, and what runs on them.
#[derive(Debug)]
pub struct Inside {
    netns: Netns,
    runtime: Option<Runtime>,
}

impl Inside {
    /// Starts the threads.
    pub fn new(netns: &Netns) -> Result<Self> {
        let entered = netns.try_clone()?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .on_thread_start(move || {
                if let Err(error) = entered.enter() {
                    eprintln!("warning: what follows will not connect: {error:#}");
                }
            })
            .build()
            .context("cannot start threads")?;
        Ok(Self {
            netns: netns.try_clone()?,
            runtime: Some(runtime),
        })
    }

    /// Runs `work` to its end, inside. Not to be called from work that runs here.
    pub fn run<F>(&self, work: F) -> Result<F::Output>
    where
        F: Future + Send,
        F::Output: Send,
    {
        let runtime = self.runtime()?;
        self.netns.run(|| runtime.block_on(work))
    }

    /// Lets `work` go on beside the caller, inside.
    pub fn spawn<F>(&self, work: F) -> Result<JoinHandle<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        Ok(self.runtime()?.spawn(work))
    }

    fn runtime(&self) -> Result<&Runtime> {
        self.runtime.as_ref().context("the threads have ended")
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        // What runs there may wait for something that never comes.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
