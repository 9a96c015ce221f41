//! The example shop as Deployments, with somebody who places orders all the time.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::outrider::Outrider;
use super::{Cluster, Namespace, PATIENCE, container_status};
use crate::programs::root;
use crate::wait::eventually;

const SHOP: &str = "shop";
/// Those that the shop comes with show on an idle machine what happens to a slow charge. On a busy one
/// they would fail orders for that alone.
const PATIENT: &str = r#"{"spec": {"timeouts": {"request": "15s", "backendRequest": "5s"}}}"#;
const DEPLOYMENTS: [&str; 4] = ["user", "notification", "billing", "order"];

/// An open shop.
#[derive(Debug)]
pub struct Shop {
    namespace: Namespace,
}

/// What has become of orders so far.
#[derive(Clone, Debug)]
pub struct Totals {
    pub placed: u64,
    pub failed: u64,
    /// Who counts, and which of its runs it is: another begins at 0.
    shopper: String,
}

impl Shop {
    /// Applies `examples/shop/kubernetes` and waits until orders are placed.
    pub fn open(outrider: &Outrider) -> Result<Self> {
        closed(outrider.cluster())?;
        let namespace = Namespace::adopt(outrider.cluster(), SHOP);
        let folder = root().join("examples/shop/kubernetes");
        let folder = folder.to_str().context("a path in UTF-8")?;
        outrider
            .cluster()
            .kubectl(&["apply", "--filename", folder])?;
        let patch = [
            "patch",
            "trafficpolicy/billing",
            "--type",
            "merge",
            "--patch",
        ];
        namespace.kubectl(&[&patch[..], &[PATIENT]].concat())?;
        let shop = Self { namespace };
        for deployment in DEPLOYMENTS {
            shop.namespace
                .rolled_out(&format!("deployment/{deployment}"))?;
        }
        // Orders fail while the shop is not open. Whoever comes now has seen none fail.
        shop.shoppers(0)?;
        shop.shoppers(1)?;
        shop.more_orders(10)?;
        Ok(shop)
    }

    fn shoppers(&self, count: usize) -> Result<()> {
        let replicas = count.to_string();
        self.namespace
            .kubectl(&["scale", "deployment/shopper", "--replicas", &replicas])?;
        self.namespace.eventually(
            "there are as many shoppers",
            &["pods", "--selector", "app=shopper"],
            |pods| (pods["items"].as_array()?.len() == count).then_some(()),
        )?;
        self.namespace.rolled_out("deployment/shopper")
    }

    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    pub fn pods(&self) -> Result<Vec<Value>> {
        let pods = self.namespace.read(&["pods", "--selector", "app"])?;
        Ok(pods["items"].as_array().context("a list")?.clone())
    }

    /// Waits until one service has so many pods, and none that ends; their names.
    pub fn settled(&self, app: &str, count: usize) -> Result<Vec<String>> {
        let selector = format!("app={app}");
        let what = format!("{app} has {count} pods, none of which ends");
        self.namespace
            .eventually(&what, &["pods", "--selector", &selector], |pods| {
                let pods = pods["items"].as_array()?;
                let stays = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
                let names = pods.iter().filter(stays);
                let names = names.filter_map(|pod| pod["metadata"]["name"].as_str());
                let names: Vec<String> = names.map(str::to_owned).collect();
                (names.len() == count && pods.len() == count).then_some(names)
            })
    }

    /// What the shopper has said last.
    pub fn totals(&self) -> Result<Totals> {
        let log = self.log()?;
        let last = log.lines().rev().find_map(totals);
        let (placed, failed) =
            last.with_context(|| format!("no totals in the shopper's log:\n{log}"))?;
        Ok(Totals {
            placed,
            failed,
            shopper: self.shopper()?,
        })
    }

    fn shopper(&self) -> Result<String> {
        let pods = self
            .namespace
            .read(&["pods", "--selector", "app=shopper"])?;
        let pods = pods["items"].as_array().context("a list")?;
        ensure!(pods.len() == 1, "{} shoppers, expected one", pods.len());
        let run = &container_status(&pods[0], "shopper")?["containerID"];
        Ok(run.as_str().context("the shopper runs")?.to_owned())
    }

    fn log(&self) -> Result<String> {
        self.namespace.kubectl(&[
            "logs",
            "deployment/shopper",
            "--container",
            "shopper",
            "--tail",
            "200",
        ])
    }

    /// Waits until so many orders have been placed.
    pub fn more_orders(&self, placed: u64) -> Result<()> {
        eventually("orders are placed", PATIENCE, || {
            let log = self.log()?;
            let last = log.lines().rev().find_map(totals);
            Ok(last.filter(|(so_far, _)| *so_far >= placed).map(|_| ()))
        })
    }

    /// Waits for some more orders, none of which may have failed since `before`.
    pub fn no_more_failed_than(&self, before: &Totals) -> Result<()> {
        self.more_orders(self.totals()?.placed + 20)?;
        let now = self.totals()?;
        ensure!(now.shopper == before.shopper, "another shopper counts now");
        ensure!(
            now.failed == before.failed,
            "{} orders have failed, {} before:\n{}",
            now.failed,
            before.failed,
            self.log()?
        );
        Ok(())
    }

    /// A Job of the shopper's that places so many orders.
    pub fn job(&self, name: &str, orders: u32) -> String {
        json!({
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": name},
            "spec": {"backoffLimit": 0, "template": {"spec": {
                "serviceAccountName": "shopper",
                "restartPolicy": "Never",
                "containers": [{
                    "name": "shopper",
                    "image": format!("outrider:{}", env!("CARGO_PKG_VERSION")),
                    "args": ["shop", "shopper", "--orders", orders.to_string()],
                }],
            }}},
        })
        .to_string()
    }
}

/// The namespace of the shop, with nothing in it, and not of the mesh.
pub fn without_mesh(cluster: &'static Cluster) -> Result<Namespace> {
    closed(cluster)?;
    Namespace::create(cluster, SHOP.to_owned())
}

/// Waits until there is no shop: the last test's may still be on its way out.
fn closed(cluster: &Cluster) -> Result<()> {
    cluster.eventually("there is no shop", &["namespaces"], |list| {
        let mut items = list["items"].as_array()?.iter();
        items
            .all(|item| item["metadata"]["name"] != SHOP)
            .then_some(())
    })
}

/// Of a line such as `12 placed, 0 failed`: both numbers.
fn totals(line: &str) -> Option<(u64, u64)> {
    let (before, after) = line.split_once(" placed, ")?;
    let placed = before.rsplit(' ').next()?.parse().ok()?;
    let failed = after.split(' ').next()?.parse().ok()?;
    Some((placed, failed))
}
