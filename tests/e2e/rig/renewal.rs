//! What certbot does to its tree when it renews a certificate.

const RENEWAL: &str = r#"
set -e
mkdir -p "$KVMD_PST_DATA/certbot"
cd "$KVMD_PST_DATA/certbot"
mkdir -p archive/example live/example renewal
next=$(($(ls archive/example | wc -l) / 2 + 1))
for name in cert privkey; do echo "$next" >archive/example/$name$next.pem; done
echo "archive_dir = $DIRECTORY/certbot/archive/example" >renewal/example.conf
ln -sfn ../../archive/example/cert$next.pem live/example/cert.pem
$MIDDLE
ln -sfn ../../archive/example/privkey$next.pem live/example/privkey.pem
"#;

/// New files in archive, a path of the data directory in a configuration, then one link after the other in live.
/// `middle` runs between the two links.
pub fn certbot_renewal(data: &str, middle: &str) -> String {
    RENEWAL
        .replace("$DIRECTORY", data)
        .replace("$MIDDLE", middle)
}
