//! SPIFFE identity, keys, the certificate authority, trust bundles and TLS configurations. No network.
