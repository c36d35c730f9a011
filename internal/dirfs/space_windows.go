package dirfs

import (
	"os"

	"golang.org/x/sys/windows"
)

func space(d *os.File) (free, total int64, err error) {
	name, err := windows.UTF16PtrFromString(d.Name())
	if err != nil {
		return 0, 0, err
	}
	var avail, all, allFree uint64
	if err := windows.GetDiskFreeSpaceEx(name, &avail, &all, &allFree); err != nil {
		return 0, 0, os.NewSyscallError("GetDiskFreeSpaceEx", err)
	}
	return int64(avail), int64(all), nil
}
