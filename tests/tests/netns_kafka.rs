//! A Kafka broker in a network namespace, with its own producer and consumer in another.

use std::fs;

use anyhow::Result;
use mesh_tests::capture::Capture;
use mesh_tests::peers::CLIENT_LIMIT;
use mesh_tests::placed::Placed;
use mesh_tests::process::{command, run, run_with_input};
use mesh_tests::programs::{find, java};

const CLUSTER: &str = "b3V0cmlkZXItdGVzdC0wMQ";

/// Kafka answers a client with the name by which it is to be called: that of the Service.
fn configuration(folder: &std::path::Path) -> String {
    format!(
        "process.roles=broker,controller\n\
         node.id=1\n\
         listeners=PLAINTEXT://:9092,CONTROLLER://localhost:9093\n\
         advertised.listeners=PLAINTEXT://kafka:9092,CONTROLLER://localhost:9093\n\
         controller.listener.names=CONTROLLER\n\
         controller.quorum.bootstrap.servers=localhost:9093\n\
         listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\n\
         log.dirs={}/data\n\
         num.partitions=1\n\
         offsets.topic.replication.factor=1\n\
         offsets.topic.num.partitions=1\n\
         group.initial.rebalance.delay.ms=0\n",
        folder.display()
    )
}

fn yaml(broker: &[String]) -> String {
    let broker: Vec<String> = broker.iter().map(|word| format!("'{word}'")).collect();
    format!(
        r#"
apiVersion: outrider.mesh/v1alpha1
kind: MeshConfig
metadata: {{name: mesh}}
spec: {{trustDomain: shop.example, defaultDeny: true}}
---
apiVersion: v1
kind: Service
metadata: {{name: kafka, namespace: shop}}
spec:
  selector: {{app: kafka}}
  ports: [{{port: 9092}}]
---
apiVersion: outrider.mesh/v1alpha1
kind: Workload
metadata: {{name: kafka-1, namespace: shop, labels: {{app: kafka}}}}
spec:
  serviceAccount: kafka
  ports: [{{port: 9092}}]
  command: [{}]
---
apiVersion: outrider.mesh/v1alpha1
kind: Workload
metadata: {{name: client-1, namespace: shop}}
spec: {{serviceAccount: client}}
---
apiVersion: outrider.mesh/v1alpha1
kind: AuthorizationPolicy
metadata: {{name: kafka, namespace: shop}}
spec:
  targetRefs: [{{group: "", kind: Service, name: kafka}}]
  rules: [{{name: client, sources: [{{type: ServiceAccount, serviceAccount: {{name: client}}}}]}}]
"#,
        broker.join(", ")
    )
}

#[test]
fn a_broker_serves_its_producer_and_its_consumer_and_nobody_reads_along() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("server.properties");
    fs::write(&file, configuration(folder.path()))?;
    let file = file.display().to_string();
    let format = java("kafka.tools.StorageTool")?;
    let mut formatted = command(&find("env", "coreutils")?)?;
    formatted
        .args(&format)
        .args(["format", "--standalone", "-t", CLUSTER, "-c", &file]);
    run(&mut formatted, CLIENT_LIMIT)?.success()?;

    let broker = [java("kafka.Kafka")?, vec![file]].concat();
    let mesh = Placed::start("kafka", &[("mesh.yaml", &yaml(&broker))])?;
    let capture = Capture::start(&mesh)?;
    let plaintext = Capture::at_app(&mesh, "kafka-1")?;
    let marker = "an-order-that-nobody-else-may-read";
    let client = |class: &str, arguments: &[&str]| {
        let mut start = mesh.inside("client-1", "env", "coreutils")?;
        start
            .args(java(class)?)
            .args(["--bootstrap-server", "kafka:9092", "--topic", "orders"])
            .args(arguments);
        anyhow::Ok(start)
    };
    let mut producer = client("org.apache.kafka.tools.ConsoleProducer", &[])?;
    run_with_input(
        &mut producer,
        format!("{marker}\n").as_bytes(),
        CLIENT_LIMIT,
    )?
    .success()?;
    let mut consumer = client(
        "org.apache.kafka.tools.consumer.ConsoleConsumer",
        &[
            "--from-beginning",
            "--max-messages",
            "1",
            "--timeout-ms",
            "30000",
        ],
    )?;
    let consumed = run(&mut consumer, CLIENT_LIMIT)?.success()?;
    assert_eq!(consumed.stdout.trim(), marker);
    plaintext.has_in_the_end(marker)?;
    capture.never_has(&mesh, marker)
}
