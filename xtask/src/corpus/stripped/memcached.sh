# As debian/rules of memcached builds it.
set -e
export DEB_BUILD_MAINT_OPTIONS=hardening=+all
eval "$(dpkg-buildflags --export=sh)"
./configure --prefix=/usr --enable-sasl --enable-tls
make -j2 memcached
