// qexport hands over a directory by a line: qdir:PATH.
#include <gtest/gtest.h>

#include "lib/base/error.h"
#include "lib/pipe/handover.h"
#include "tests/unit/support/model_dir.h"

namespace qp {
namespace {

TEST(DirectoryHandle, NamesADirectory) {
  TempDir dir;
  dir.write("handle", "qdir:/models/out dir%0A%25\n");
  EXPECT_TRUE(is_qmap_input(dir / "handle"));
  QmapInput in = open_qmap_input(dir / "handle");
  EXPECT_EQ(in.directory, "/models/out dir\n%");
  EXPECT_EQ(in.file, nullptr);
}

TEST(DirectoryHandle, RelativePathsAreDamaged) {
  TempDir dir;
  dir.write("handle", "qdir:out\n");
  EXPECT_THROW(open_qmap_input(dir / "handle"), Error);
}

TEST(DirectoryHandle, AQmapHandleIsStillOne) {
  TempDir dir;
  dir.write("handle", "qmap:/nowhere/x.qmap 00000000000000000000000000000000\n");
  try {
    open_qmap_input(dir / "handle");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::system);
    EXPECT_EQ(e.file(), "/nowhere/x.qmap");
  }
}

}  // namespace
}  // namespace qp
