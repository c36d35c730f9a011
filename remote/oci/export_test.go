package oci

import "time"

// SetLoginTime sets how long a login may take, and returns what restores it.
func SetLoginTime(d time.Duration) func() {
	before := loginTime
	loginTime = d
	return func() { loginTime = before }
}
