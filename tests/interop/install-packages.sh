#!/bin/sh
# The real peers that the tests start by hand, as Debian packages. Root installs what is missing (no service is started);
# anyone else is told which tests stay out.
set -eu
PACKAGES="postfix postfix-pcre swaks pflogsumm clamav-daemon spamassassin spamd strace iproute2 libnet-ssleay-perl"
PACKAGES="$PACKAGES nsd unbound opendkim opendmarc postfix-policyd-spf-python libmail-dkim-perl publicsuffix rspamd postgrey redis-server"
PACKAGES="$PACKAGES c-icap libc-icap-mod-virus-scan amavisd-new clamsmtp spampd altermime p7zip-full cpio genisoimage"
PACKAGES="$PACKAGES miltertest postfwd clamav-milter spamass-milter opendkim-tools"
PACKAGES="$PACKAGES postfix-lmdb postfix-cdb postfix-sqlite postfix-pgsql postfix-mysql postfix-ldap postgresql mariadb-server slapd ldap-utils"
PACKAGES="$PACKAGES krb5-kdc krb5-admin-server krb5-user libsasl2-modules-gssapi-mit python3-gssapi"
# Packages that conflict with those above: unpacked into a folder of their own, nothing of them is installed.
UNPACKED="sendmail-bin"
FOLDER=/var/lib/postgate-peers
missing=""
for package in $PACKAGES; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $package"
done
for package in $UNPACKED; do
    [ -d "$FOLDER/$package" ] || apart="${apart:-} $package"
done
[ -n "$missing${apart:-}" ] || exit 0
missing="$missing${apart:-}"
if [ "$(id -u)" != 0 ]; then
    echo "left out: the tests that need these Debian packages:$missing (install them as root to run all tests)"
    exit 0
fi
command -v apt-get >/dev/null || { echo "left out: no apt-get here; tests that need$missing do not run"; exit 0; }
echo "installing for the interop tests:$missing"
# policy-rc.d 101 = "do not start services"; put back whatever was there before.
policy=/usr/sbin/policy-rc.d
[ ! -e $policy ] || mv $policy $policy.postgate-saved
printf '#!/bin/sh\nexit 101\n' >$policy
chmod 755 $policy
trap 'rm -f $policy; [ ! -e $policy.postgate-saved ] || mv $policy.postgate-saved $policy' EXIT
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
for package in ${apart:-}; do
    missing=$(echo "$missing" | sed "s/ $package//")
    folder=$(mktemp -d)
    chmod 755 "$folder"
    (cd "$folder" && apt-get download -qq "$package" && mkdir -p "$FOLDER/$package" && dpkg -x ./*.deb "$FOLDER/$package")
    rm -rf "$folder"
done
[ -n "$missing" ] || exit 0
# shellcheck disable=SC2086
apt-get install -y -qq --no-install-recommends $missing >/dev/null
