# shellcheck shell=bash
# A certificate authority for the cluster, and who is who by its certificates.

readonly PKI=$STATE/pki

write_certificates() {
  mkdir -p -m 700 "$PKI"
  printf '[req]\ndistinguished_name = dn\n[dn]\n' >"$PKI/openssl.cnf"
  request -keyout "$PKI/ca.key" -out "$PKI/ca.crt" -subj /CN=outrider-kubernetes \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign
  certificate kube-apiserver /CN=kube-apiserver "$(api_server_names)"
  certificate kubelet "/O=system:nodes/CN=system:node:$NODE" "DNS:$NODE,IP:$NODE_IP4"
  certificate kubelet-client /O=system:masters/CN=kube-apiserver-kubelet-client
  certificate admin /O=system:masters/CN=outrider-tests
  certificate kube-controller-manager /CN=system:kube-controller-manager
  certificate kube-scheduler /CN=system:kube-scheduler
  certificate kube-proxy /CN=system:kube-proxy
  openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out "$PKI/accounts.key" 2>/dev/null
  openssl pkey -in "$PKI/accounts.key" -pubout -out "$PKI/accounts.pub"
}

api_server_names() {
  local names="DNS:localhost,IP:127.0.0.1,IP:$NODE_IP4,IP:${SERVICES_IP4%.*}.1" name=kubernetes label
  for label in default svc cluster.local ""; do
    names+=",DNS:$name"
    name+=.$label
  done
  echo "$names"
}

certificate() {
  local name=$1 subject=$2 names=${3:-}
  request -CA "$PKI/ca.crt" -CAkey "$PKI/ca.key" \
    -keyout "$PKI/$name.key" -out "$PKI/$name.crt" -subj "$subject" \
    -addext basicConstraints=critical,CA:FALSE -addext keyUsage=critical,digitalSignature \
    -addext extendedKeyUsage=serverAuth,clientAuth ${names:+-addext "subjectAltName=$names"}
}

request() {
  openssl req -x509 -config "$PKI/openssl.cnf" -days 30 -nodes \
    -newkey ec -pkeyopt ec_paramgen_curve:P-256 "$@" 2>"$LOGS/openssl.log" ||
    fail "openssl made no certificate: $(cat "$LOGS/openssl.log")"
}

# Writes a kubeconfig with a certificate in it.
kubeconfig() {
  local name=$1 file=$2
  cat >"$file" <<EOF
apiVersion: v1
kind: Config
clusters:
  - name: outrider
    cluster:
      server: https://$NODE_IP4:6443
      certificate-authority-data: $(base64 -w 0 "$PKI/ca.crt")
users:
  - name: $name
    user:
      client-certificate-data: $(base64 -w 0 "$PKI/$name.crt")
      client-key-data: $(base64 -w 0 "$PKI/$name.key")
contexts:
  - name: outrider
    context:
      cluster: outrider
      user: $name
current-context: outrider
EOF
  chmod 600 "$file"
}
